//! Owned writes and their confirmation on tokio.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::future::Future;
use std::io::ErrorKind;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use qio::transport::{File, Socket};
use qio::{Bytes, Channel, ChannelExt, Mode, WriteFlags};
use qio_adapters::tokio::AsyncChannel;
use qio_testkit::pairs::tcp_sockets;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::runtime::{Builder, Runtime};

/// No test waits longer.
const LIMIT: Duration = Duration::from_secs(20);

fn runtimes() -> [Runtime; 2] {
    [
        Builder::new_current_thread().enable_all().build().unwrap(),
        Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap(),
    ]
}

fn bounded<F: Future>(runtime: &Runtime, future: F) -> F::Output {
    runtime.block_on(async { tokio::time::timeout(LIMIT, future).await.expect("done in time") })
}

/// A future that counts how often it is polled.
async fn counted<F: Future>(polls: Arc<AtomicU32>, future: F) -> F::Output {
    let mut future = pin!(future);
    std::future::poll_fn(|cx| {
        polls.fetch_add(1, Ordering::Relaxed);
        future.as_mut().poll(cx)
    })
    .await
}

fn pattern(len: usize) -> Bytes {
    (0..len).map(|n| (n % 251) as u8).collect::<Vec<_>>().into()
}

/// Sends until nothing goes in any more.
fn stuff(socket: &Socket) -> usize {
    let block = Bytes::from(vec![7; 256 << 10]);
    let mut total = 0;
    loop {
        match socket.write_owned_with(std::slice::from_ref(&block), WriteFlags::NONBLOCK) {
            Ok(n) => total += n,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return total,
            Err(error) => panic!("{error}"),
        }
    }
}

#[test]
fn owned_and_ordinary_writes_arrive_in_order_and_are_confirmed() {
    for runtime in runtimes() {
        bounded(&runtime, async {
            let (left, right) = tcp_sockets();
            let (left, mut right) =
                (AsyncChannel::new(left).unwrap(), AsyncChannel::new(right).unwrap());
            let (mut reader, mut writer) = left.into_split();
            let polls = Arc::new(AtomicU32::new(0));
            let reading = tokio::spawn(counted(Arc::clone(&polls), async move {
                let mut byte = [0];
                reader.read_exact(&mut byte).await.unwrap();
                (byte, reader)
            }));
            let sent = pattern(24 << 20);
            let all = sent.clone();
            let writing = tokio::spawn(async move {
                let mut rest = all.clone();
                let mut turn = 0;
                while !rest.is_empty() {
                    let part = rest.slice(..rest.len().min(300_000));
                    turn += 1;
                    let n = if turn % 3 == 0 {
                        writer.write(&part).await.unwrap()
                    } else {
                        writer.write_owned(&[Bytes::new(), part]).await.unwrap()
                    };
                    rest = rest.slice(n..);
                }
                (writer.confirm().await.unwrap(), writer)
            });
            let mut got = vec![0; sent.len()];
            right.read_exact(&mut got).await.unwrap();
            assert_eq!(got, sent);
            let (confirmed, mut writer) = writing.await.unwrap();
            // The loopback device copies, always.
            assert!(confirmed.copied && confirmed.sends > 20, "{confirmed:?}");
            assert!(!writer.confirm().await.unwrap().copied, "said once");
            right.write_all(b"x").await.unwrap();
            assert_eq!(reading.await.unwrap().0, *b"x");
            let polls = polls.load(Ordering::Relaxed);
            assert!(polls < 200, "a reader was polled {polls} times for one byte");
        });
    }
}

#[test]
fn confirmations_are_waited_for_without_spinning() {
    for runtime in runtimes() {
        bounded(&runtime, async {
            let (left, right) = tcp_sockets();
            left.set_mode(Mode::NonBlocking).unwrap();
            let total = stuff(&left);
            let mut left = AsyncChannel::new(left).unwrap();
            let mut right = AsyncChannel::new(right).unwrap();
            let polls = Arc::new(AtomicU32::new(0));
            let waiting = tokio::spawn(counted(Arc::clone(&polls), async move {
                // The stream's own flush waits for them too.
                left.flush().await.unwrap();
                (left.confirm().await.unwrap(), left)
            }));
            for _ in 0..1000 {
                tokio::task::yield_now().await;
            }
            let before = polls.load(Ordering::Relaxed);
            assert!(before <= 10, "{before} polls with nothing to see");
            assert!(!waiting.is_finished());
            let mut got = vec![0; total];
            right.read_exact(&mut got).await.unwrap();
            let (confirmed, left) = waiting.await.unwrap();
            assert!(confirmed.sends > 0);
            assert_eq!(left.get_ref().unconfirmed_bytes(), 0);
        });
    }
}

#[test]
fn a_close_ends_a_pending_confirm() {
    for runtime in runtimes() {
        bounded(&runtime, async {
            let (left, right) = tcp_sockets();
            left.set_mode(Mode::NonBlocking).unwrap();
            stuff(&left);
            let left = Arc::new(left);
            let mut waiting = AsyncChannel::new(Arc::clone(&left)).unwrap();
            let waiter = tokio::spawn(async move { waiting.confirm().await });
            for _ in 0..100 {
                tokio::task::yield_now().await;
            }
            assert!(!waiter.is_finished());
            left.close().unwrap();
            assert_eq!(waiter.await.unwrap().unwrap_err().kind(), ErrorKind::NotConnected);
            drop(right);
        });
    }
}

#[test]
fn a_file_copies_and_says_so() {
    for runtime in runtimes() {
        bounded(&runtime, async {
            let path = std::env::temp_dir().join(format!("qio-owned-{}", std::process::id()));
            let file = std::fs::File::create(&path).unwrap();
            let mut channel = AsyncChannel::new(File::from_fd(file.into()).unwrap()).unwrap();
            let written = channel.write_owned(&[Bytes::from_static(b"some text")]).await.unwrap();
            assert_eq!(written, 9);
            let confirmed = channel.confirm().await.unwrap();
            assert!(confirmed.copied && confirmed.sends == 0);
            assert_eq!(std::fs::read(&path).unwrap(), b"some text");
            std::fs::remove_file(&path).unwrap();
        });
    }
}
