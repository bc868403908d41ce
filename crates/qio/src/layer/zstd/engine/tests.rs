use std::io::ErrorKind;

use super::*;

fn engine() -> Zstd {
    Zstd::new(ZstdOptions::new()).unwrap()
}

fn write(engine: &mut Zstd, mut plain: &[u8]) -> Vec<u8> {
    let mut wire = vec![0; 70_000];
    let mut all = Vec::new();
    while !plain.is_empty() {
        let done = engine.handle_plain(plain, &mut wire).unwrap();
        assert!(done.consumed > 0);
        all.extend(&wire[..done.produced]);
        plain = &plain[done.consumed..];
    }
    all
}

fn end(engine: &mut Zstd) -> Vec<u8> {
    engine.finish();
    let mut wire = [0; 64];
    let count = engine.poll_wire(&mut wire);
    wire[..count].to_vec()
}

fn read(engine: &mut Zstd, mut wire: &[u8], room: usize) -> Vec<u8> {
    let mut all = Vec::new();
    let mut plain = vec![0; room];
    loop {
        let done = engine.handle_wire(&mut wire.to_vec(), &mut plain).unwrap();
        all.extend(&plain[..done.produced]);
        wire = &wire[done.consumed..];
        if done == Progress::default() {
            return all;
        }
    }
}

/// Bytes that cannot be compressed.
fn noise(len: usize) -> Vec<u8> {
    let mut state = 1_u64;
    let next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 56) as u8
    };
    std::iter::repeat_with(next).take(len).collect()
}

#[test]
fn every_write_can_be_read_before_the_next() {
    let (mut left, mut right) = (engine(), engine());
    for text in [&b"a"[..], b"question", b"", b"question again"] {
        let wire = write(&mut left, text);
        assert_eq!(read(&mut right, &wire, 3), text);
    }
    assert!(!left.wants_wire() && !right.wants_wire());
}

#[test]
fn bytes_that_come_one_at_a_time_are_the_same() {
    for plain in [vec![b'x'; 300_000], noise(300_000)] {
        let (mut left, mut right) = (engine(), engine());
        let mut wire = write(&mut left, &plain);
        wire.extend(end(&mut left));
        assert!(wire.len() < plain.len() + 600, "{}", wire.len());
        let mut got = Vec::new();
        for byte in wire {
            assert!(!right.has_ended());
            got.extend(read(&mut right, &[byte], 1000));
        }
        assert!(got == plain && right.has_ended());
        right.handle_end().unwrap();
    }
}

#[test]
fn what_the_expander_holds_is_seen_and_given_without_more_of_the_wire() {
    let (mut left, mut right) = (engine(), engine());
    let wire = write(&mut left, &[7; 1000]);
    assert_eq!(right.handle_wire(&mut wire.clone(), &mut []).unwrap().produced, 0);
    assert!(right.is_readable(&[]));
    // Looking again, and again, changes nothing.
    for _ in 0..100 {
        assert_eq!(right.handle_wire(&mut [], &mut []).unwrap(), Progress::default());
    }
    let mut plain = [0; 10];
    for _ in 0..100 {
        assert_eq!(right.handle_wire(&mut [], &mut plain).unwrap().produced, 10);
        assert_eq!(plain, [7; 10]);
    }
    // Nothing there is no fault, however often it is asked for.
    for _ in 0..100 {
        assert_eq!(right.handle_wire(&mut [], &mut plain).unwrap(), Progress::default());
    }
    assert!(!right.is_readable(&[]) && !right.has_ended());
}

#[test]
fn an_end_without_the_end_of_the_frame_is_a_truncation() {
    assert_eq!(engine().handle_end(), Err(ZstdError::Truncated));
    let (mut left, mut right) = (engine(), engine());
    let mut wire = write(&mut left, b"some");
    assert_eq!(read(&mut right, &wire, 10), b"some");
    assert_eq!(right.handle_end(), Err(ZstdError::Truncated));
    wire = end(&mut left);
    assert!(!wire.is_empty());
    assert_eq!(read(&mut right, &wire, 10), b"");
    assert_eq!(right.handle_end(), Ok(()));
    assert_eq!(left.handle_plain(b"x", &mut [0; 2000]), Err(ZstdError::Ended));
    // Nothing was ever written: still a frame.
    let mut right = engine();
    assert_eq!(read(&mut right, &end(&mut engine()), 10), b"");
    assert!(right.has_ended());
}

#[test]
fn what_is_no_frame_is_an_error_that_stays() {
    let (mut left, mut right) = (engine(), engine());
    assert_eq!(read(&mut right, &write(&mut left, b"some"), 100), b"some");
    let mut plain = [0; 100];
    let error = right.handle_wire(&mut [0xff; 20], &mut plain).unwrap_err();
    assert!(matches!(error, ZstdError::Invalid(_)), "{error}");
    assert!(right.is_readable(&[]));
    assert_eq!(right.handle_wire(&mut [], &mut plain), Err(error));
}

#[test]
fn a_window_beyond_the_limit_is_refused() {
    let mut left = Zstd::new(ZstdOptions::new().window_log(22)).unwrap();
    let wire = write(&mut left, &noise(1000));
    let mut right = engine();
    let error = right.handle_wire(&mut wire.clone(), &mut [0; 100]).unwrap_err();
    assert!(matches!(error, ZstdError::Invalid(_)), "{error}");
    let mut right = Zstd::new(ZstdOptions::new().window_log_max(22)).unwrap();
    assert_eq!(read(&mut right, &wire, 100), noise(1000));
}

#[test]
fn a_bomb_is_handed_on_as_it_comes_and_memory_is_bounded() {
    let (mut left, mut right) = (engine(), engine());
    let bomb = write(&mut left, &vec![0; 64 << 20]);
    assert!(bomb.len() < 64 << 10, "{}", bomb.len());
    let (mut rest, mut got, mut most) = (&bomb[..], 0, 0);
    let mut plain = [1; 4096];
    while got < 64 << 20 {
        let done = right.handle_wire(&mut rest.to_vec(), &mut plain).unwrap();
        assert!(plain[..done.produced].iter().all(|byte| *byte == 0));
        rest = &rest[done.consumed..];
        got += done.produced;
        most = most.max(right.expander.as_ref().unwrap().sizeof());
    }
    assert!(most < (128 + 512) << 10, "{most}");
    let compressor = left.compressor.as_ref().unwrap().sizeof();
    assert!(compressor < 2 << 20, "{compressor}");
}

#[test]
fn what_finds_no_room_keeps_its_order() {
    let (mut left, mut right) = (engine(), engine());
    let plain = noise(400);
    let mut wire = vec![0; 100];
    let produced = left.compress(&plain, &mut wire, Directive::ZSTD_e_flush).unwrap();
    assert!(produced == 100 && left.wants_wire());
    let mut more = [0; 4096];
    let done = left.handle_plain(b"next", &mut more).unwrap();
    assert_eq!(done.consumed, 4);
    wire.extend(&more[..done.produced]);
    assert_eq!(read(&mut right, &wire, 1000), [&plain[..], b"next"].concat());
}

#[test]
fn options_out_of_their_range_are_refused() {
    let new = ZstdOptions::new();
    for options in [new.level(0), new.level(20), new.window_log(9), new.window_log(24)] {
        assert_eq!(Zstd::new(options).unwrap_err().kind(), ErrorKind::InvalidInput);
    }
    for level in [1, 19] {
        let mut left = Zstd::new(new.level(level)).unwrap();
        let wire = write(&mut left, b"text text text");
        assert_eq!(read(&mut engine(), &wire, 100), b"text text text");
    }
}
