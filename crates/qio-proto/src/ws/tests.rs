//! Two engines without input or output, and one against bytes that were written by hand.

use std::vec::Vec;
use std::{format, vec};

use proptest::prelude::*;

use super::*;

/// An engine and the bytes of the wire that it has not consumed.
struct Side {
    engine: WebSocket,
    wire: Vec<u8>,
}

impl Side {
    fn server(options: WsOptions) -> Self {
        Self { engine: WebSocket::server(options), wire: Vec::new() }
    }

    fn client(options: WsOptions) -> Self {
        let mut next = 0x1234_5678_u32;
        let keys = move |key: &mut [u8; 4]| {
            next = next.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            *key = next.to_be_bytes();
        };
        Self { engine: WebSocket::client(options, Box::new(keys)), wire: Vec::new() }
    }

    fn write(&mut self, plain: &[u8]) -> Vec<u8> {
        let mut wire = vec![0; plain.len() + 64];
        let done = self.engine.handle_plain(plain, &mut wire).unwrap();
        assert_eq!(done.consumed, plain.len());
        wire.truncate(done.produced);
        wire
    }

    fn control(&mut self) -> Vec<u8> {
        let mut wire = vec![0; 512];
        let count = self.engine.poll_wire(&mut wire);
        wire.truncate(count);
        wire
    }

    /// Takes bytes of the wire, and gives what is plain, read with room for `room` at a time.
    fn read(&mut self, bytes: &[u8], room: usize) -> Result<Vec<u8>, WsError> {
        self.wire.extend(bytes);
        let mut all = Vec::new();
        loop {
            let mut plain = vec![0; room];
            let done = self.engine.handle_wire(&mut self.wire, &mut plain)?;
            self.wire.drain(..done.consumed);
            all.extend(&plain[..done.produced]);
            if done == Progress::default() {
                return Ok(all);
            }
        }
    }
}

fn pair() -> (Side, Side) {
    (Side::client(WsOptions::default()), Side::server(WsOptions::default()))
}

/// A frame as a server sends it.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![first];
    match payload.len() {
        len @ 0..=125 => bytes.push(len as u8),
        len => {
            bytes.push(126);
            bytes.extend((len as u16).to_be_bytes());
        }
    }
    bytes.extend(payload);
    bytes
}

#[test]
fn bytes_go_both_ways_one_at_a_time() {
    let (mut client, mut server) = pair();
    let text: Vec<u8> = (0..70_000_u32).map(|n| (n % 251) as u8).collect();
    for size in [1, 125, 126, 65_535, 65_536] {
        let (there, back) = (client.write(&text[..size]), server.write(&text[..size]));
        let (mut got_there, mut got_back) = (Vec::new(), Vec::new());
        for byte in there {
            got_there.extend(server.read(&[byte], 3).unwrap());
            assert!(server.wire.len() < MAX_FRAME_HEADER, "only a header waits");
        }
        for byte in back {
            got_back.extend(client.read(&[byte], 3).unwrap());
        }
        assert!(got_there == text[..size] && got_back == text[..size]);
    }
    assert!(!client.engine.wants_wire() && !server.engine.wants_wire());
}

#[test]
fn a_frame_of_a_terabyte_is_handed_on_as_it_comes() {
    let mut client = Side::client(WsOptions::default());
    let mut bytes = vec![0x82, 127];
    bytes.extend((1_u64 << 40).to_be_bytes());
    assert_eq!(client.read(&bytes, 16).unwrap(), b"");
    assert_eq!(client.engine.passthrough(), 1 << 40);
    for _ in 0..1000 {
        assert_eq!(client.read(b"trickle", 16).unwrap(), b"trickle");
        assert!(client.wire.is_empty());
    }
}

#[test]
fn payload_can_go_past_the_engine() {
    let (mut client, mut server) = pair();
    let wire = client.write(b"straight into the buffer");
    assert_eq!(server.read(&wire[..10], 100).unwrap(), b"stra");
    let left = server.engine.passthrough();
    assert_eq!(left, wire.len() - 10);
    let mut payload = wire[10..].to_vec();
    let (first, second) = payload.split_at_mut(7);
    server.engine.transform(first);
    server.engine.transform(second);
    assert_eq!(payload, b"ight into the buffer");
    assert_eq!(server.engine.passthrough(), 0);
    assert_eq!(server.read(&client.write(b"next"), 100).unwrap(), b"next");

    let frame = server.engine.frame(5).unwrap();
    let wire = [frame.header(), b"as is"].concat();
    assert_eq!(client.read(&wire, 100).unwrap(), b"as is");
    assert_eq!(client.engine.frame(5), None, "a client masks");
}

#[test]
fn several_frames_in_one_piece_all_come_out() {
    let mut client = Side::client(WsOptions::default());
    let wire = [frame(0x82, b"one"), frame(0x82, b"two"), frame(0x82, b"three")].concat();
    assert_eq!(client.read(&wire, 100).unwrap(), b"onetwothree");
}

#[test]
fn neither_a_control_frame_nor_an_empty_one_is_an_end() {
    let mut client = Side::client(WsOptions::default());
    for wire in [frame(0x89, b"ping"), frame(0x8A, b"pong"), frame(0x82, b""), frame(0x02, b"")] {
        assert_eq!(client.read(&wire, 100).unwrap(), b"");
        assert!(!client.engine.has_ended() && !client.engine.is_readable(&client.wire));
    }
    assert_eq!(client.read(&frame(0x80, b"end"), 100).unwrap(), b"end");
}

#[test]
fn a_message_may_come_in_any_number_of_fragments_with_pings_inside() {
    for pieces in 1..6 {
        let mut client = Side::client(WsOptions::default());
        for index in 0..pieces {
            let first = if index == 0 { 0x02 } else { 0x00 };
            let last = if index == pieces - 1 { 0x80 } else { 0x00 };
            let text = format!("part {index}");
            let got = client.read(&frame(first | last, text.as_bytes()), 4).unwrap();
            assert_eq!(got, text.as_bytes());
            let ping = [b'p'; 125];
            assert_eq!(client.read(&frame(0x89, &ping[..index * 25]), 4).unwrap(), b"");
            let mut server = Side::server(WsOptions::default());
            let pong = client.control();
            let header = Header::parse(&pong, Masked::Always).unwrap().unwrap();
            assert_eq!((header.opcode, header.payload_len), (Opcode::Pong, index as u64 * 25));
            assert_eq!(server.read(&pong, 4).unwrap(), b"");
        }
    }
}

#[test]
fn a_pong_has_the_payload_of_the_ping_and_the_newest_wins() {
    let mut server = Side::server(WsOptions::default());
    let mut client = Side::client(WsOptions::default());
    for payload in [&b""[..], b"x", &[7; 125]] {
        // A client's ping is a masked frame: made by hand.
        let mut masked = payload.to_vec();
        Mask::new([1, 2, 3, 4]).apply(&mut masked);
        let mut ping = vec![0x89, 0x80 | payload.len() as u8, 1, 2, 3, 4];
        ping.extend(&masked);
        server.read(&[ping.clone(), ping].concat(), 4).unwrap();
        assert_eq!(server.control(), frame(0x8A, payload));
        assert_eq!(server.control(), b"");
    }
    let mut flood = Vec::new();
    for n in 0..10_000_u32 {
        flood.extend(frame(0x89, &n.to_be_bytes()));
    }
    client.read(&flood, 4).unwrap();
    let pong = client.control();
    assert_eq!(pong.len(), 2 + 4 + 4, "one pong");
    let mut payload = pong[6..].to_vec();
    Mask::new(pong[2..6].try_into().unwrap()).apply(&mut payload);
    assert_eq!(payload, 9_999_u32.to_be_bytes());
}

#[test]
fn a_close_is_the_end_and_is_echoed_when_our_side_ends() {
    let (mut client, mut server) = pair();
    client.engine.close(4001, "enough");
    let farewell = client.control();
    assert!(client.engine.handle_plain(b"more", &mut [0; 64]).is_err());
    assert_eq!(server.read(&farewell, 4).unwrap(), b"");
    assert!(server.engine.has_ended());
    let close = server.engine.peer_close().unwrap();
    assert_eq!((close.status, close.reason.as_str()), (Some(4001), "enough"));
    assert_eq!(server.engine.handle_end(), Ok(()));
    assert_eq!(server.control(), b"", "our side goes on until it is ended");
    let answer = server.write(b"answer");
    assert_eq!(client.read(&answer, 4).unwrap(), b"answer");
    server.engine.finish();
    let echo = server.control();
    assert_eq!(echo, frame(0x88, &4001_u16.to_be_bytes()));
    assert_eq!(client.read(&echo, 4).unwrap(), b"");
    assert!(client.engine.has_ended() && client.engine.handle_end() == Ok(()));
    assert_eq!((client.control(), server.control()), (vec![], vec![]), "one Close each");
}

#[test]
fn data_goes_on_after_our_farewell_until_theirs() {
    let (mut client, mut server) = pair();
    client.engine.finish();
    client.engine.finish();
    let mut wire = server.write(b"still here");
    wire.extend(frame(0x88, b""));
    assert_eq!(client.read(&wire, 4).unwrap(), b"still here");
    assert!(client.engine.has_ended());
    assert_eq!(client.engine.peer_close().unwrap().status, None);
}

#[test]
fn an_end_without_a_farewell_is_a_truncation() {
    let (mut client, _) = pair();
    assert_eq!(client.engine.handle_end(), Err(WsError::Truncated));
}

#[test]
fn each_offence_ends_with_its_status() {
    let long = [b'r'; 126];
    for (wire, status) in [
        (frame(0xC2, b""), 1002),
        (frame(0xA2, b""), 1002),
        (frame(0x92, b""), 1002),
        (frame(0x83, b""), 1002),
        (frame(0x8F, b""), 1002),
        (frame(0x80, b"continues nothing"), 1002),
        ([frame(0x02, b"a"), frame(0x82, b"b")].concat(), 1002),
        ([frame(0x02, b"a"), frame(0x81, b"b")].concat(), 1002),
        (vec![0x82, 0x80, 0, 0, 0, 0], 1002),
        (frame(0x09, b"ping in fragments"), 1002),
        (frame(0x89, &long), 1002),
        (vec![0x82, 126, 0, 5], 1002),
        (frame(0x81, b"text"), 1003),
        (frame(0x88, b"x"), 1002),
        (frame(0x88, &1005_u16.to_be_bytes()), 1002),
        (frame(0x88, &999_u16.to_be_bytes()), 1002),
        (frame(0x88, &5000_u16.to_be_bytes()), 1002),
        (frame(0x88, b"\x03\xE8\xFF"), 1007),
    ] {
        let mut client = Side::client(WsOptions::default());
        let error = client.read(&wire, 100).unwrap_err();
        let WsError::Violation(violation) = &error else { panic!("{wire:x?}: {error}") };
        assert_eq!(violation.status(), status, "{wire:x?}");
        let told = client.control();
        let mut payload = told[6..].to_vec();
        Mask::new(told[2..6].try_into().unwrap()).apply(&mut payload);
        assert_eq!(payload, u16::to_be_bytes(status), "{wire:x?}");
        // Errors are final.
        assert_eq!(client.read(&frame(0x82, b"more"), 100), Err(error.clone()));
        assert_eq!(client.engine.handle_plain(b"more", &mut [0; 64]), Err(error));
    }
}

#[test]
fn what_came_before_an_offence_is_delivered() {
    let mut client = Side::client(WsOptions::default());
    client.wire = [frame(0x82, b"good"), frame(0x83, b"bad")].concat();
    let mut plain = [0; 100];
    let done = client.engine.handle_wire(&mut client.wire, &mut plain).unwrap();
    assert_eq!(&plain[..done.produced], b"good");
    assert!(client.engine.handle_wire(&mut client.wire, &mut plain).is_err());
}

#[test]
fn what_came_before_bytes_that_are_no_text_is_delivered_in_any_pieces() {
    let options = WsOptions::default().accept_text(true);
    for (payload, good) in
        [(&b"\0\x80"[..], 1), (b"ab\xE2\x82(c", 4), (b"\xFF", 0), (b"\xF0\x80\x80", 1)]
    {
        for size in 1..=payload.len() + 2 {
            let mut client = Side::client(options.clone());
            let mut got = Vec::new();
            let wire = frame(0x81, payload);
            let failed = wire.chunks(size).any(|piece| drain(&mut client, piece, 100, &mut got));
            assert!(failed, "{payload:?} in pieces of {size}");
            assert_eq!(got, &payload[..good], "{payload:?} in pieces of {size}");
        }
    }
}

#[test]
fn text_is_taken_when_it_is_asked_for_and_is_utf_8() {
    let options = WsOptions::default().accept_text(true);
    let mut client = Side::client(options.clone());
    let text = "grüße".as_bytes();
    let (one, two) = text.split_at(3);
    let wire = [frame(0x01, one), frame(0x80, two)].concat();
    assert_eq!(client.read(&wire, 1).unwrap(), text);
    for wire in [frame(0x81, b"\xFF"), frame(0x81, &text[..3])] {
        let mut client = Side::client(options.clone());
        let mut result = client.read(&wire, 100);
        if result.is_ok() {
            result = client.read(b"", 100);
        }
        let Err(WsError::Violation(violation)) = result else { panic!("{wire:x?}") };
        assert_eq!(violation.status(), 1007);
    }
}

#[test]
fn text_goes_out_in_whole_characters() {
    let mut server = Side::server(WsOptions::default().send_text(true));
    let mut client = Side::client(WsOptions::default().accept_text(true));
    let text = "a€𐍈ß".as_bytes();
    let mut got = Vec::new();
    for byte in text {
        let wire = server.write(&[*byte]);
        got.extend(client.read(&wire, 100).unwrap());
    }
    assert_eq!(got, text);
    assert_eq!(server.engine.handle_plain(b"\xFF", &mut [0; 64]), Err(WsError::NotText));
}

#[test]
fn silence_is_answered_with_a_ping_and_then_with_the_end() {
    let second = Duration::from_secs(1);
    let options = WsOptions::default().ping_interval(Some(30 * second)).pong_deadline(5 * second);
    let mut server = Side::server(options);
    let mut client = Side::client(WsOptions::default());
    server.engine.handle_time(100 * second).unwrap();
    assert_eq!(server.engine.deadline(), Some(130 * second));
    let wire = client.write(b"x");
    server.read(&wire, 4).unwrap();
    server.engine.handle_time(130 * second).unwrap();
    assert!(!server.engine.wants_wire(), "it was heard");
    server.engine.handle_time(160 * second).unwrap();
    assert_eq!(server.engine.deadline(), Some(165 * second));
    let ping = server.control();
    assert_eq!(ping, frame(0x89, b""));
    client.read(&ping, 4).unwrap();
    server.read(&client.control(), 4).unwrap();
    server.engine.handle_time(165 * second).unwrap();
    assert_eq!(server.engine.deadline(), Some(195 * second), "the pong came");
    server.engine.handle_time(195 * second).unwrap();
    assert_eq!(server.engine.handle_time(200 * second), Err(WsError::Silent));
}

proptest! {
    /// Whatever comes, in whatever pieces: no panic, and the same as in one piece.
    #[test]
    fn any_bytes_in_any_pieces_mean_the_same(
        bytes in proptest::collection::vec(any::<u8>(), 0..300),
        size in 1usize..20,
        room in 1usize..20,
    ) {
        let options = WsOptions::default().accept_text(true);
        let mut whole = Side::client(options.clone());
        let mut pieces = Side::client(options);
        let mut expected = Vec::new();
        let mut got = Vec::new();
        let failed = drain(&mut whole, &bytes, 1000, &mut expected);
        let mut failed_too = false;
        for piece in bytes.chunks(size) {
            failed_too = drain(&mut pieces, piece, room, &mut got);
            if failed_too {
                break;
            }
        }
        prop_assert_eq!(failed, failed_too);
        prop_assert_eq!(got, expected);
        prop_assert_eq!(whole.engine.peer_close(), pieces.engine.peer_close());
    }

    #[test]
    fn what_is_written_in_any_pieces_is_read(
        text in proptest::collection::vec(any::<u8>(), 1..2000),
        size in 1usize..500,
        room in 15usize..100,
    ) {
        let (mut client, mut server) = pair();
        let mut got = Vec::new();
        for piece in text.chunks(size) {
            let mut left = piece;
            while !left.is_empty() {
                let mut wire = vec![0; room];
                let done = client.engine.handle_plain(left, &mut wire).unwrap();
                prop_assert!(done.consumed > 0);
                left = &left[done.consumed..];
                got.extend(server.read(&wire[..done.produced], 7).unwrap());
            }
        }
        prop_assert_eq!(got, text);
    }
}

/// Reads like [`Side::read`], keeping what came before an error; gives whether there was one.
fn drain(side: &mut Side, bytes: &[u8], room: usize, all: &mut Vec<u8>) -> bool {
    side.wire.extend(bytes);
    loop {
        let mut plain = vec![0; room];
        match side.engine.handle_wire(&mut side.wire, &mut plain) {
            Ok(done) => {
                side.wire.drain(..done.consumed);
                all.extend(&plain[..done.produced]);
                if done == Progress::default() {
                    return false;
                }
            }
            Err(_) => return true,
        }
    }
}
