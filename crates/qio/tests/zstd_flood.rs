//! How much memory a compressed flood takes; alone in its process, whose memory is measured.

use qio::ChannelExt;
use qio::layer::zstd::{self, ZstdOptions};
use qio::transport::Socket;

#[test]
fn a_flood_of_zeros_towards_a_stopped_reader_stays_where_it_is() {
    let (left, right) = Socket::pair().unwrap();
    let left = zstd::layer(left, ZstdOptions::new()).unwrap();
    let right = zstd::layer(right, ZstdOptions::new()).unwrap();
    left.write_all(&vec![0; 8 << 20]).unwrap();
    right.read_exact(&mut [1; 100]).unwrap();
    let before = qio_testkit::resident_bytes();
    left.write_all(&vec![0; 64 << 20]).unwrap();
    let mut some = vec![1; 64 << 10];
    right.read_exact(&mut some).unwrap();
    assert!(some.iter().all(|byte| *byte == 0));
    drop(some);
    let after = qio_testkit::resident_bytes();
    assert!(after < before + (1 << 20), "{before} and {after}");
}
