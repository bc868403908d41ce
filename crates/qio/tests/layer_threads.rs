//! Layers under real threads: reads and writes of both ends at once, with control output between.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::ops::RangeInclusive;
use std::thread;
use std::time::{Duration, Instant};

use qio::layer::{Layer, tls, ws};
use qio::transport::Socket;
use qio::{Channel, ChannelExt};
use qio_testkit::digest::{Noise, Sum};
use qio_testkit::tls::Local;
use qio_testkit::{finished, scope};

/// How long the ordinary run lasts, for each protocol.
const SHORT: Duration = Duration::from_secs(2);

/// How long the long one does.
const LONG: Duration = Duration::from_secs(60);

/// What a run may take longer, before it counts as a stall.
const LIMIT: Duration = Duration::from_secs(30);

#[test]
fn tls_with_key_updates_from_both_sides_loses_nothing() {
    scope(LIMIT, |_| tls_for(SHORT));
}

#[test]
fn a_websocket_with_pings_loses_nothing_and_answers() {
    scope(LIMIT, |_| ws_for(SHORT));
}

#[test]
#[ignore = "takes two minutes: `.ci/run full` runs it"]
fn a_minute_of_each_loses_nothing() {
    scope(LIMIT + LONG, |_| tls_for(LONG));
    scope(LIMIT + LONG, |_| ws_for(LONG));
}

fn tls_for(time: Duration) {
    let (left, right) = Socket::pair().unwrap();
    let (client, server) = Local::default().layers(left, right);
    let until = Instant::now() + time;
    let sums = thread::scope(|scope| {
        [
            scope.spawn(|| send(&client, until, |_| update_keys(&client))),
            scope.spawn(|| receive(&server)),
            scope.spawn(|| send(&server, until, |_| update_keys(&server))),
            scope.spawn(|| receive(&client)),
        ]
        .map(|thread| thread.join().unwrap())
    });
    println!("{} and {} bytes", sums[0].bytes, sums[2].bytes);
    assert!(sums[0].bytes > 0 && sums[2].bytes > 0);
    assert_eq!((sums[0], sums[2]), (sums[1], sums[3]));
}

fn update_keys<S: tls::Side>(channel: &Layer<Socket, tls::Tls<S>>) {
    channel.with_engine(tls::Tls::refresh_keys).unwrap();
}

fn ws_for(time: Duration) {
    let (client, server) = Socket::pair().unwrap();
    let request = "GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\n\
        Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
        Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    client.write_all(request.as_bytes()).unwrap();
    let server = finished(ws::server(server, ws::ServerOptions::default(), None));
    let server = server.into_layer(ws::NAME);
    let mut byte = [0];
    let mut end = 0;
    while end < 4 {
        client.read_exact(&mut byte).unwrap();
        end = if byte[0] == b"\r\n\r\n"[end] { end + 1 } else { usize::from(byte[0] == b'\r') };
    }
    let until = Instant::now() + time;
    let (sums, answers) = thread::scope(|scope| {
        let sends = scope.spawn(|| send_frames(&client, until));
        let answers = scope.spawn(|| receive_frames(&client));
        let from_server = scope.spawn(|| send(&server, until, |_| {}));
        let at_server = receive(&server);
        let (at_client, answers) = answers.join().unwrap();
        let sums = [sends.join().unwrap(), at_server, from_server.join().unwrap(), at_client];
        (sums, answers)
    });
    println!("{} and {} bytes, {answers} answers", sums[0].bytes, sums[2].bytes);
    assert_eq!((sums[0], sums[2]), (sums[1], sums[3]));
    assert!(answers > 0);
}

/// Frames shorter than 126 bytes have another header, which the client here cannot write.
const SIZES: RangeInclusive<usize> = 126..=40_125;

fn send(channel: &dyn Channel, until: Instant, mut between: impl FnMut(u64)) -> Sum {
    let mut sum = Sum::new();
    let mut noise = Noise::new(7);
    let mut round = 0;
    while Instant::now() < until {
        let block = noise.block(SIZES);
        channel.write_all(&block).unwrap();
        sum.add(&block);
        round += 1;
        if round % 16 == 0 {
            between(round);
        }
    }
    channel.finish_all(None).unwrap();
    sum
}

fn receive(channel: &dyn Channel) -> Sum {
    let mut sum = Sum::new();
    let mut noise = Noise::new(11);
    let mut space = vec![0; 40_000];
    loop {
        let len = 1 + noise.below(space.len());
        match channel.read(&mut space[..len]).unwrap() {
            0 => return sum,
            count => sum.add(&space[..count]),
        }
    }
}

/// As a client does, with a ping after some frames; the farewell last.
fn send_frames(to: &Socket, until: Instant) -> Sum {
    let mut sum = Sum::new();
    let mut noise = Noise::new(13);
    let mut round = 0_u32;
    while Instant::now() < until {
        let block = noise.block(SIZES);
        let mut frame = vec![0x82, 0x80 | 126];
        frame.extend((block.len() as u16).to_be_bytes());
        frame.extend([0; 4]);
        frame.extend(&block);
        round += 1;
        if round.is_multiple_of(4) {
            frame.extend([0x89, 0x84, 0, 0, 0, 0]);
            frame.extend(round.to_be_bytes());
        }
        to.write_all(&frame).unwrap();
        sum.add(&block);
    }
    to.write_all(&[0x88, 0x82, 0, 0, 0, 0, 3, 0xe8]).unwrap();
    sum
}

/// The payload of a server's frames up to its farewell, and how many answers to pings.
fn receive_frames(from: &Socket) -> (Sum, u32) {
    let (mut sum, mut answers, mut newest) = (Sum::new(), 0, 0);
    loop {
        let mut head = [0; 2];
        from.read_exact(&mut head).unwrap();
        let len = match head[1] {
            126 => {
                let mut bytes = [0; 2];
                from.read_exact(&mut bytes).unwrap();
                u16::from_be_bytes(bytes).into()
            }
            len => usize::from(len),
        };
        let mut payload = vec![0; len];
        from.read_exact(&mut payload).unwrap();
        match head[0] & 15 {
            2 => sum.add(&payload),
            8 => return (sum, answers),
            10 => {
                let answer = u32::from_be_bytes(payload.try_into().unwrap());
                assert!(answer > newest, "answer {answer} after {newest}");
                newest = answer;
                answers += 1;
            }
            other => panic!("opcode {other}"),
        }
    }
}
