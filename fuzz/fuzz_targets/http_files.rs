#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| qio_testkit::fuzz::http_files(data));
