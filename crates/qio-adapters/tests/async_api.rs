//! Opening, accepting, handshakes, whole buffers and relays as futures, given up at every await.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::future::{Future, poll_fn};
use std::io::{ErrorKind, IoSlice, IoSliceMut, Seek, SeekFrom, Write};
use std::os::fd::AsFd;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use futures_lite::StreamExt;
use qio::layer::tls;
use qio::layer::ws;
use qio::net::{ConnectOptions, ListenOptions, Listener, listen};
use qio::relay::{End, RelayOptions};
use qio::transport::{File, MessageKind, Messages, Socket};
use qio::{Channel, ChannelExt, FdSink, Interest, ReadFlags, Readiness, WriteFlags};
use qio_adapters::tokio::{
    AsyncChannel, accept, connect, copy_bidirectional, handshake, incoming, run,
};
use qio_testkit::conformance::Pair;
use qio_testkit::tls::{Local, name};
use qio_testkit::{Chaos, Plan, pairs, scope};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::join;
use tokio::task::yield_now;

/// No test takes longer.
const LIMIT: Duration = Duration::from_secs(60);

/// Runs on a runtime of its own, bounded, and looks for descriptors that are left behind.
fn block_on<F: Future>(future: impl FnOnce() -> F) -> F::Output {
    // What tokio makes once and keeps is made before descriptors are counted.
    drop(tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap());
    scope(LIMIT, |_| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async { tokio::time::timeout(LIMIT, future()).await.unwrap() })
    })
}

/// What comes out within so many polls; after the last one the future is dropped.
async fn within<F: Future>(polls: usize, future: F) -> Option<F::Output> {
    let mut future = pin!(future);
    let mut left = polls;
    poll_fn(|cx| {
        if left == 0 {
            return Poll::Ready(None);
        }
        left -= 1;
        match future.as_mut().poll(cx) {
            Poll::Pending if left == 0 => Poll::Ready(None),
            polled => polled.map(Some),
        }
    })
    .await
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i * 31 + i / 251) as u8).collect()
}

fn on(address: &str) -> Listener {
    listen(&address.parse().unwrap(), &ListenOptions::new()).unwrap()
}

async fn reach(listener: &Listener) -> AsyncChannel<Arc<dyn Channel>> {
    connect(&listener.local_addresses()[0], &ConnectOptions::new()).await.unwrap()
}

/// Lets the runtime look at its descriptors.
async fn settle() {
    for _ in 0..100 {
        yield_now().await;
    }
}

#[test]
fn an_exact_read_that_is_given_up_at_any_await_loses_no_byte() {
    let data = pattern(20);
    let make: [fn() -> Pair; 4] = [
        pairs::unix,
        || pairs::ws_over(pairs::unix()),
        pairs::memory,
        || pairs::unix().in_chaos(Plan::new(7).short(2).for_edges()),
    ];
    for make in make {
        let mut cuts = 0;
        loop {
            let whole = block_on(|| async {
                let Pair { left, right, .. } = make();
                let mut reader = AsyncChannel::new(right).unwrap();
                let mut got = vec![0; data.len()];
                // A task of its own: the reader is polled when it is woken, and for no other reason.
                let (writer, bytes) = (Arc::clone(&left), data.clone());
                let writes = tokio::spawn(async move {
                    for byte in bytes {
                        writer.write_all(&[byte]).unwrap();
                        settle().await;
                    }
                });
                let reads = async {
                    if within(cuts, reader.read_exact_or_eof(&mut got)).await.is_some() {
                        return true;
                    }
                    got.fill(0);
                    // By each of the ways to read.
                    assert!(reader.ready(Interest::READ).await.unwrap().contains(Readiness::READ));
                    got[0] = reader.read_u8().await.unwrap();
                    let (one, two) = got[1..4].split_at_mut(1);
                    let mut bufs = [IoSliceMut::new(one), IoSliceMut::new(two)];
                    let n = reader.read_with(&mut bufs, ReadFlags::empty(), None).await.unwrap();
                    let at = 1 + n;
                    // A second one that is given up, and a third that is not.
                    let second = within(1, reader.read_exact_or_eof(&mut got[at..])).await;
                    if second.is_none() {
                        got[at..].fill(0);
                        assert!(reader.read_exact_or_eof(&mut got[at..]).await.unwrap());
                    }
                    false
                };
                let whole = reads.await;
                writes.await.unwrap();
                assert_eq!(got, data, "given up after {cuts} polls");
                // Nothing is left of it, and an end is an end.
                left.finish_all(None).unwrap();
                assert!(!reader.read_exact_or_eof(&mut [0; 5]).await.unwrap());
                assert!(reader.into_inner().is_ok());
                whole
            });
            if whole {
                break;
            }
            cuts += 1;
        }
        assert!(cuts > 5, "it was given up {cuts} times");
    }
}

#[test]
fn an_end_within_an_exact_read_says_how_much_came() {
    block_on(|| async {
        let (left, right) = Socket::pair().unwrap();
        let mut reader = AsyncChannel::new(right).unwrap();
        left.write_all(b"abc").unwrap();
        let mut buf = [0; 5];
        assert!(within(1, reader.read_exact_or_eof(&mut buf)).await.is_none());
        let reader = reader.into_inner().unwrap_err();
        let (mut reader, _write) = reader.into_split();
        // A peek leaves what was put back.
        let mut first = [0];
        let bufs = &mut [IoSliceMut::new(&mut first)];
        assert_eq!(reader.read_with(bufs, ReadFlags::PEEK, None).await.unwrap(), 1);
        left.close().unwrap();
        let error = reader.read_exact_or_eof(&mut buf).await.unwrap_err();
        assert_eq!((error.kind(), &buf[..3]), (ErrorKind::UnexpectedEof, &b"abc"[..]));
        assert!(error.to_string().ends_with("the stream ended after 3 bytes of a longer message"));
        assert!(!reader.read_exact_or_eof(&mut buf).await.unwrap());
    });
}

#[test]
fn messages_are_not_read_or_written_in_parts() {
    block_on(|| async {
        let (left, right) = Messages::pair(MessageKind::SeqPacket).unwrap();
        let mut left = AsyncChannel::new(left).unwrap();
        right.send(b"one").unwrap();
        let error = left.read_exact_or_eof(&mut [0; 3]).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(error.to_string().contains("use receive"), "{error}");
        let mut bufs = &mut [IoSlice::new(b"two")][..];
        let error = left.write_all_with(&mut bufs, WriteFlags::empty(), &mut &[][..]).await;
        assert!(error.unwrap_err().to_string().contains("use send"));
        let mut buf = [0; 9];
        assert_eq!(left.receive(&mut buf).await.unwrap(), Some(3));
    });
}

#[test]
fn an_exact_read_of_a_file_that_is_given_up_leaves_the_position_to_the_writer() {
    const PART: usize = 1_000_000;
    let data = pattern(3 * PART);
    // How far it comes within so many polls is up to the threads that read.
    for (cuts, writes_next) in (0..5).flat_map(|cuts| [(cuts, false), (cuts, true)]) {
        block_on(|| async {
            let mut file = tempfile::tempfile().unwrap();
            file.write_all(&data).unwrap();
            file.seek(SeekFrom::Start(0)).unwrap();
            let channel = File::from_fd(file.try_clone().unwrap().into()).unwrap();
            let mut channel = AsyncChannel::new(channel).unwrap();
            let mut got = vec![0; PART];
            let whole = within(cuts, channel.read_exact_or_eof(&mut got)).await.is_some();
            // Nothing was read, as far as anybody knows.
            let mut stands_at = if whole { PART } else { 0 };
            if !whole && !writes_next {
                assert!(channel.read_exact_or_eof(&mut got).await.unwrap());
                stands_at = PART;
            }
            if stands_at == PART {
                assert!(got == data[..PART], "given up after {cuts} polls");
            }
            channel.write_all(b"here").await.unwrap();
            channel.flush().await.unwrap();
            assert_eq!(file.stream_position().unwrap(), stands_at as u64 + 4, "after {cuts} polls");
            assert!(channel.read_exact_or_eof(&mut got).await.unwrap());
            assert!(got == data[stands_at + 4..stands_at + 4 + PART], "after {cuts} polls");
        });
    }
}

#[test]
fn a_whole_write_that_is_given_up_at_any_await_goes_on_where_it_stood() {
    let data = pattern(1 << 20);
    let mut cuts = 0;
    loop {
        let whole = block_on(|| async {
            let (left, right) = Socket::pair().unwrap();
            let mut left = AsyncChannel::new(left).unwrap();
            let mut right = AsyncChannel::new(right).unwrap();
            let file = std::fs::File::open("/dev/null").unwrap();
            let writes = async {
                let mut slices: Vec<_> = data.chunks(70_001).map(IoSlice::new).collect();
                let mut bufs = &mut slices[..];
                let mut fds = &[file.as_fd()][..];
                let flags = WriteFlags::empty();
                let first = within(cuts, left.write_all_with(&mut bufs, flags, &mut fds)).await;
                if first.is_none() {
                    // Another future of the same kind on the way.
                    let _ = within(1, left.write_all_with(&mut bufs, flags, &mut fds)).await;
                    left.write_all_with(&mut bufs, flags, &mut fds).await.unwrap();
                }
                assert!(bufs.is_empty() && fds.is_empty());
                left.shutdown().await.unwrap();
                first.is_some()
            };
            let reads = async {
                let (mut got, mut sink) = (Vec::new(), FdSink::new(9));
                let mut buf = vec![0; 50_000];
                loop {
                    let bufs = &mut [IoSliceMut::new(&mut buf)];
                    match right.read_with(bufs, ReadFlags::empty(), Some(&mut sink)).await.unwrap()
                    {
                        0 => return (got, sink.fds().len()),
                        n => got.extend_from_slice(&buf[..n]),
                    }
                }
            };
            let (whole, (got, fds)) = join!(writes, reads);
            assert!(got == data, "given up after {cuts} polls: {} bytes, or others", got.len());
            assert_eq!(fds, 1, "given up after {cuts} polls");
            whole
        });
        if whole {
            break;
        }
        cuts += 1;
    }
    assert!(cuts > 2, "it was given up {cuts} times");
}

#[test]
fn descriptors_without_a_byte_are_refused() {
    block_on(|| async {
        let (left, _right) = Socket::pair().unwrap();
        let mut left = AsyncChannel::new(left).unwrap();
        let file = std::fs::File::open("/dev/null").unwrap();
        let mut fds = &[file.as_fd()][..];
        let mut bufs = &mut [IoSlice::new(b"")][..];
        let error = left.write_all_with(&mut bufs, WriteFlags::empty(), &mut fds).await;
        let error = error.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        assert!(error.to_string().contains("need a byte"), "{error}");
        assert_eq!(fds.len(), 1, "they were not sent");
    });
}

#[test]
fn a_connect_that_is_given_up_at_any_await_leaves_nothing_behind() {
    for address in ["listen:ws://127.0.0.1:0", "listen:ws+unix:@qio-test-of-async-connect"] {
        let mut cuts = 0;
        loop {
            let done = block_on(|| async {
                let listener = on(address);
                let to = listener.local_addresses()[0].clone();
                let options = ConnectOptions::new();
                let connects = async {
                    let first = within(cuts, connect(&to, &options)).await;
                    let done = first.is_some();
                    // Who gives up does not stand in the way of the next.
                    let mut client = match first {
                        Some(client) => client.unwrap(),
                        None => connect(&to, &options).await.unwrap(),
                    };
                    client.write_all(b"hello").await.unwrap();
                    client.shutdown().await.unwrap();
                    assert!(!client.read_exact_or_eof(&mut [0]).await.unwrap());
                    done
                };
                let accepts = async {
                    let mut text = [0; 5];
                    loop {
                        let mut server = accept(&listener).await.unwrap().channel;
                        // One that was given up ends early: its handshake may have been over here.
                        if server.read_exact_or_eof(&mut text).await.is_ok_and(|came| came) {
                            server.shutdown().await.unwrap();
                            break;
                        }
                    }
                    assert_eq!(&text, b"hello");
                };
                join!(connects, accepts).0
            });
            if done {
                break;
            }
            cuts += 1;
        }
        assert!(cuts > 1, "{address}: it was given up {cuts} times");
    }
}

#[test]
fn what_cannot_be_connected_is_told_as_ever() {
    block_on(|| async {
        let address = "unix:@qio-test-of-nobody".parse().unwrap();
        let error = connect(&address, &ConnectOptions::new()).await.unwrap_err();
        assert_eq!(error.class(), qio::error::Class::Open);
        assert!(
            error.to_string().contains("connect to unix:@qio-test-of-nobody") || {
                error.to_string().starts_with("connect unix:@qio-test-of-nobody")
            }
        );
    });
}

#[test]
fn an_accept_that_is_given_up_at_any_await_takes_nobody_away() {
    for address in ["listen:tcp://127.0.0.1:0", "listen:ws://127.0.0.1:0"] {
        for by_stream in [false, true] {
            let mut cuts = 0;
            loop {
                let done = block_on(|| async {
                    let listener = on(address);
                    let accepts = async {
                        let mut stream = incoming(&listener);
                        let first = match by_stream {
                            false => within(cuts, accept(&listener)).await,
                            true => within(cuts, stream.next()).await.map(Option::unwrap),
                        };
                        let done = first.is_some();
                        let client = match first {
                            Some(client) => client.unwrap(),
                            None if cuts % 2 == 0 => accept(&listener).await.unwrap(),
                            None => stream.next().await.unwrap().unwrap(),
                        };
                        assert!(client.peer.starts_with("tcp://127.0.0.1:"), "{}", client.peer);
                        let mut channel = client.channel;
                        assert_eq!(channel.read_u8().await.unwrap(), b'!');
                        channel.write_u8(b'?').await.unwrap();
                        done
                    };
                    let connects = async {
                        settle().await;
                        let mut client = reach(&listener).await;
                        client.write_u8(b'!').await.unwrap();
                        assert_eq!(client.read_u8().await.unwrap(), b'?');
                    };
                    join!(accepts, connects).0
                });
                if done {
                    break;
                }
                cuts += 1;
            }
            assert!(cuts > 1, "{address}: it was given up {cuts} times");
        }
    }
}

#[test]
fn a_stream_of_clients_ends_when_the_listener_is_closed() {
    block_on(|| async {
        let listener = on("listen:tcp://127.0.0.1:0");
        let serves = async {
            let mut clients = incoming(&listener);
            let mut served = 0;
            // The trait's combinators work, too.
            let mut two = (&mut clients).take(2);
            while let Some(client) = two.next().await {
                client.unwrap().channel.write_u8(b'a').await.unwrap();
                served += 1;
            }
            while let Some(client) = clients.next().await {
                client.unwrap().channel.write_u8(b'b').await.unwrap();
                served += 1;
            }
            assert!(clients.next().await.is_none(), "it stays over");
            served
        };
        let comes = async {
            let mut answers = Vec::new();
            // Two at a time: both are there when the first is taken.
            let (mut one, mut two) = (reach(&listener).await, reach(&listener).await);
            answers.push(one.read_u8().await.unwrap());
            answers.push(two.read_u8().await.unwrap());
            answers.push(reach(&listener).await.read_u8().await.unwrap());
            settle().await;
            listener.close().unwrap();
            answers
        };
        let (served, answers) = join!(serves, comes);
        assert_eq!((served, &answers[..]), (3, &b"aab"[..]));
        assert_eq!(accept(&listener).await.unwrap_err().kind(), ErrorKind::NotConnected);
    });
}

#[test]
fn a_flood_of_clients_lets_other_tasks_run() {
    block_on(|| async {
        let listener = on("listen:tcp://127.0.0.1:0");
        let address = listener.local_addresses()[0].clone();
        let waiting: Vec<_> = (0..300)
            .map(|_| qio::net::connect(&address, &ConnectOptions::new()).unwrap())
            .collect();
        let mut clients = incoming(&listener);
        // Each is ready at once; within one poll there is an end to that all the same.
        let mut took = 0;
        let all = async {
            while took < waiting.len() {
                drop(clients.next().await.unwrap().unwrap());
                took += 1;
            }
        };
        // The first poll may have to wait for the runtime to look at the listener.
        let mut polls = 0;
        let mut all = pin!(all);
        poll_fn(|cx| {
            polls += 1;
            all.as_mut().poll(cx)
        })
        .await;
        assert!(polls > 1, "all within one poll");
    });
}

#[test]
fn a_handshake_that_is_given_up_at_any_await_closes_or_goes_on() {
    let (client, server) = (Local::default().client(), Local::default().server());
    for goes_on in [false, true] {
        let mut cuts = 0;
        loop {
            let done = block_on(|| async {
                let (near, far) = pairs::tcp_sockets();
                let asks = async {
                    let below = Chaos::new(near, Plan::new(3).short(100).for_edges());
                    let mut shaking =
                        tls::client(below, Arc::clone(&client), name(), None).unwrap();
                    if within(cuts, run(&mut shaking)).await.is_some() {
                        return true;
                    }
                    if goes_on {
                        let mut channel = handshake(shaking, tls::NAME).await.unwrap();
                        channel.write_all(b"hello").await.unwrap();
                        channel.shutdown().await.unwrap();
                        assert!(!channel.read_exact_or_eof(&mut [0]).await.unwrap());
                    } else {
                        // What is dropped by name is dropped by the future, too.
                        assert!(within(1, handshake(shaking, tls::NAME)).await.is_none());
                    }
                    false
                };
                let answers = async {
                    let shaking = tls::server(far, Arc::clone(&server), None).unwrap();
                    let mut channel = handshake(shaking, tls::NAME).await?;
                    let mut text = [0; 5];
                    channel.read_exact_or_eof(&mut text).await?;
                    channel.shutdown().await?;
                    std::io::Result::Ok(text)
                };
                let (done, answer) = join!(asks, answers);
                if goes_on && !done {
                    assert_eq!(&answer.unwrap(), b"hello", "given up after {cuts} polls");
                } else {
                    assert!(answer.is_err(), "the peer sees the end");
                }
                done
            });
            if done {
                break;
            }
            cuts += 1;
            // The last poll makes the rest of it.
            if !goes_on && cuts > 2 {
                break;
            }
        }
        assert!(cuts > 1, "it was given up {cuts} times");
    }
}

#[test]
fn a_handshake_that_fails_says_why() {
    block_on(|| async {
        let (near, far) = Socket::pair().unwrap();
        near.write_all(b"SSH-2.0-OpenSSH\r\n\r\n").unwrap();
        let error = handshake(ws::server(far, ws::ServerOptions::default(), None), ws::NAME).await;
        let error = error.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidData);
        assert!(error.get_ref().is_some_and(|inner| inner.is::<ws::HandshakeError>()));
    });
}

#[test]
fn a_relay_that_is_given_up_at_any_await_loses_no_byte() {
    let data = pattern(300_000);
    let mut cuts = 0;
    loop {
        let done = block_on(|| async {
            let (client, left) = Socket::pair().unwrap();
            let (right, server) = pairs::tcp_sockets();
            let talk = |channel: Socket| async {
                let (mut read, mut write) = AsyncChannel::new(channel).unwrap().into_split();
                let writes = async {
                    for part in data.chunks(10_000) {
                        write.write_all(part).await.unwrap();
                        yield_now().await;
                    }
                    write.shutdown().await.unwrap();
                };
                let reads = async {
                    let mut got = Vec::new();
                    read.read_to_end(&mut got).await.unwrap();
                    assert!(got == data, "given up after {cuts} polls: {} bytes", got.len());
                };
                join!(writes, reads);
            };
            let relays = async {
                let options = RelayOptions::default();
                let mut copying = copy_bidirectional(left, right, options);
                let (record, done) = match within(cuts, &mut copying).await {
                    Some(record) => (record.unwrap(), true),
                    None => (run(copying.into_steps().unwrap()).await.unwrap(), false),
                };
                assert!(matches!(record.end, End::Finished), "{record:?}");
                let moved = [record.left_to_right.bytes, record.right_to_left.bytes];
                assert_eq!(moved, [data.len() as u64; 2]);
                done
            };
            join!(relays, talk(client), talk(server)).0
        });
        if done {
            break;
        }
        cuts += 1;
    }
    assert!(cuts > 5, "it was given up {cuts} times");
}

#[test]
fn dropping_a_relay_cuts_both_connections() {
    block_on(|| async {
        let (client, left) = Socket::pair().unwrap();
        let (right, server) = Socket::pair().unwrap();
        let copying = copy_bidirectional(left, right, RelayOptions::default());
        assert!(within(1, copying).await.is_none());
        for end in [client, server] {
            assert!(!AsyncChannel::new(end).unwrap().read_exact_or_eof(&mut [0]).await.unwrap());
        }
    });
}
