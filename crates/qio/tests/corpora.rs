//! The committed corpora of the fuzz targets, and some bytes beside them, without a fuzzer.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::{Path, PathBuf};

use qio_testkit::fuzz::{self, Target};

/// Inputs of a target; there may be none.
fn corpus(target: &str) -> Vec<Vec<u8>> {
    let folder = corpora().join(target);
    let mut paths: Vec<PathBuf> =
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    // In the same order on every machine.
    paths.sort();
    paths.into_iter().map(|path| fs::read(path).unwrap()).collect()
}

fn corpora() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus")
}

/// Feeds the corpus, and what comes of it by small changes.
fn replay((name, run): Target) {
    let corpus = corpus(name);
    assert!(!corpus.is_empty(), "{name} has no corpus");
    let mut random = 0x9e37_79b9_u64;
    let mut next = |limit: usize| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        usize::try_from(random >> 33).unwrap() % limit.max(1)
    };
    for (index, input) in corpus.iter().enumerate() {
        run(input);
        let mut changed = input.clone();
        for _ in 0..3 {
            let other = &corpus[next(corpus.len())];
            match next(4) {
                0 if !changed.is_empty() => {
                    let at = next(changed.len());
                    changed[at] ^= 1 << next(8);
                }
                1 => changed.truncate(next(changed.len())),
                2 => changed.extend(&other[next(other.len())..]),
                _ => changed.insert(next(changed.len()), u8::try_from(next(256)).unwrap()),
            }
            run(&changed);
        }
        assert!(index < 5000, "{name}: a corpus is small");
    }
    for len in 0..200 {
        let bytes: Vec<u8> = (0..len).map(|_| u8::try_from(next(256)).unwrap()).collect();
        run(&bytes);
    }
}

macro_rules! replays {
    ($($name:ident)*) => {
        $(
            #[test]
            fn $name() {
                replay((stringify!($name), fuzz::$name));
            }
        )*

        #[test]
        fn every_target_is_replayed() {
            let replayed = [$(stringify!($name)),*];
            let targets = fuzz::TARGETS.iter().map(|(name, _)| *name);
            assert!(targets.eq(replayed));
        }
    };
}

replays! {
    ws_server
    ws_client
    ws_server_handshake
    ws_client_handshake
    pump
    address
    tap_reader
    http_files
}

#[test]
fn every_corpus_is_small_and_has_a_target() {
    let mut size = 0;
    for folder in fs::read_dir(corpora()).unwrap() {
        let folder = folder.unwrap();
        let name = folder.file_name().into_string().unwrap();
        let target = corpora().join("../fuzz_targets").join(&name).with_extension("rs");
        assert!(target.exists(), "{name} is no target");
        size += corpus(&name).iter().map(Vec::len).sum::<usize>();
    }
    assert!(size < 200 * 1024, "{size} bytes");
}

#[cfg(feature = "tls")]
#[test]
fn tls_server() {
    use std::sync::Arc;

    use qio::layer::tls;
    use qio_testkit::tls::Local;

    let config = Local::default().server();
    for input in corpus("tls_server") {
        let server = |below| tls::server(below, Arc::clone(&config), None).unwrap();
        fuzz::refused_handshake(server, &input);
    }
}
