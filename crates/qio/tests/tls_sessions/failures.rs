//! What goes wrong in a session, and what it leaves behind.

use std::io::{self, ErrorKind, IoSliceMut, Read, Write};
use std::net::Shutdown;
use std::task::Poll;
use std::time::{Duration, Instant};

use qio::error::Class;
use qio::layer::tls::{self, ClientCertificates, TlsError};
use qio::transport::Socket;
use qio::watch::Steps;
use qio::{Channel, ChannelExt, ReadFlags};
use qio_testkit::certs::{Authority, Wanted};
use qio_testkit::{Ledger, finish, resident_bytes, soon};

use crate::engine::{Client, Engine, Server};
use crate::world::{HOST, World, connected, raw, serve, shake, why};

pub(crate) fn an_end_without_close_notify_is_an_error_unless_a_relaxed_one_is_asked_for<
    E: Engine,
>() {
    let world = World::new();
    let client = E::client(&world.client());
    let server = E::server(&world.server());
    let (left, right) = connected(&client, &server);
    left.write_all(b"x").unwrap();
    left.finish().unwrap();
    right.read_exact(&mut [0]).unwrap();
    assert_eq!(right.read(&mut [0]).unwrap(), 0);
    // The other direction goes on.
    right.write_all(b"y").unwrap();
    left.read_exact(&mut [0]).unwrap();
    let (left, right) = connected(&client, &server);
    left.inner().unwrap().shutdown(Shutdown::Write).unwrap();
    let error = right.read(&mut [0]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::UnexpectedEof);
    assert!(error.to_string().contains("without close_notify"), "{error}");
    let mut byte = [0];
    let bufs = &mut [IoSliceMut::new(&mut byte)];
    assert_eq!(right.read_with(bufs, ReadFlags::RELAXED_EOF, None).unwrap(), 0);
}

pub(crate) fn a_handshake_that_stalls_ends_at_its_deadline<E: Engine>() {
    let world = World::new();
    let (left, _silent) = Socket::pair().unwrap();
    let deadline = Instant::now() + Duration::from_millis(50);
    let client = E::client(&world.client()).begin(left, HOST, Some(deadline)).unwrap();
    let error = finish(client).err().unwrap();
    assert_eq!(error.kind(), ErrorKind::TimedOut);
    assert!(Instant::now() >= deadline);
    let error = tls::handshake_error("connect", "tls:x", error);
    assert_eq!(error.class(), Class::Timeout);
    let (right, mut slow) = raw();
    slow.write_all(&[22, 3, 1, 2, 0]).unwrap();
    let deadline = Instant::now() + Duration::from_millis(50);
    let server = E::server(&world.server()).begin(right, Some(deadline)).unwrap();
    assert_eq!(finish(server).err().unwrap().kind(), ErrorKind::TimedOut);
    assert!(Instant::now() >= deadline);
}

pub(crate) fn a_peer_without_tls_is_told_apart_with_what_it_sent<E: Engine>() {
    let world = World::new();
    let expected = |sent| format!("tls: the peer does not speak TLS (it sent: {sent})");
    let (left, mut plain) = raw();
    plain.write_all(b"SSH-2.0-OpenSSH_9.2\r\n").unwrap();
    let refused = finish(E::client(&world.client()).begin(left, HOST, soon()).unwrap());
    let error = refused.err().unwrap();
    let found = TlsError::find(&error).unwrap().to_string();
    assert_eq!(found, expected(r"SSH-2.0-OpenSSH_9.2\r\n"));
    let error = tls::handshake_error("connect", "tls:x", error);
    assert!(error.hint_text().unwrap().contains("connect without TLS"), "{error:?}");
    let server = E::server(&world.server());
    for (sent, shown) in [
        ("GET / HTTP/1.1\r\n\r\n", r"GET / HTTP/1.1\r\n\r\n"),
        ("x", "x"),
        ("\x16\x08", r"\x16\x08"),
    ] {
        let (right, mut plain) = raw();
        plain.write_all(sent.as_bytes()).unwrap();
        let text = why(finish(server.begin(right, soon()).unwrap())).to_string();
        assert_eq!(text, expected(shown));
        let mut answer = Vec::new();
        let _ = plain.read_to_end(&mut answer);
        // At most an alert.
        assert!(answer.len() <= 7, "{answer:?}");
    }
    let (right, plain) = raw();
    drop(plain);
    let refused = finish(server.begin(right, soon()).unwrap());
    assert!(matches!(why(refused), TlsError::Unfinished));
}

/// `QIO_TLS_FAILURES` asks for more.
pub(crate) fn handshakes_that_fail_leave_nothing_behind<E: Engine>() {
    let count = std::env::var("QIO_TLS_FAILURES").map_or(400, |text| text.parse().unwrap());
    let ledger = Ledger::open();
    let world = World::new();
    let stranger = Authority::new("stranger").issue(Wanted::new("host", &[HOST]));
    let client = E::client(&world.client());
    let servers = [
        E::server(&serve(&stranger)),
        E::server(&world.server_that_asks(ClientCertificates::Required)),
    ];
    let fail = |count: usize| {
        for index in 0..count {
            let (_, refused) = shake(&client, &servers[index % 2]);
            assert!(refused.is_err());
        }
    };
    fail(count / 2);
    ledger.check_closed();
    let before = resident_bytes();
    fail(count);
    ledger.check_closed();
    let grown = resident_bytes().saturating_sub(before);
    // 4 KiB each would be seen, and 1 KiB from some thousands on; the allocator has its moods below.
    assert!(grown < 1 << 20, "{grown} bytes more after {count} handshakes");
}

/// A thousand times in all: at every step of a handshake, by either side.
pub(crate) fn dropping_a_handshake_at_any_step_leaks_nothing<E: Engine>() {
    type Side = Box<dyn FnMut() -> Poll<io::Result<()>>>;

    let ledger = Ledger::open();
    let world = World::new();
    let client = E::client(&world.client_with_certificate());
    let server = E::server(&world.server_that_asks(ClientCertificates::Required));
    let mut rounds = 0;
    for leaves in [0, 1].into_iter().cycle() {
        // Until a side is done before the drop.
        for steps in 0.. {
            rounds += 1;
            let (left, right) = Socket::pair().unwrap();
            let mut client = client.begin(left, HOST, soon()).unwrap();
            let mut server = server.begin(right, soon()).unwrap();
            let mut sides: [Option<Side>; 2] = [
                Some(Box::new(move || client.step(Instant::now()).map_ok(drop))),
                Some(Box::new(move || server.step(Instant::now()).map_ok(drop))),
            ];
            let mut done = None;
            for step in 0..steps {
                let side = step % 2;
                if let Poll::Ready(result) = sides[side].as_mut().unwrap()() {
                    result.unwrap();
                    done = Some(side);
                    break;
                }
            }
            // Who is left is told by the end of the channel.
            drop(sides[leaves].take());
            let rest = 1 - leaves;
            if done != Some(rest) {
                let step = sides[rest].as_mut().unwrap()();
                assert!(step.is_ready(), "a side waits for who is gone");
            }
            if done.is_some() {
                assert!(steps >= 3, "{steps} steps are no handshake");
                break;
            }
        }
        ledger.check_closed();
        if rounds >= 1000 {
            break;
        }
    }
}
