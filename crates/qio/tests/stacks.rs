//! Every layer and every stack of them over every transport, with either role as the subject.
//!
//! A further engine of TLS is one more line at the end.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Arc;
use std::time::Duration;

use qio::layer::tls;
use qio::transport::{Child, Duplex, Pipe, Socket};
use qio::{Channel, ChannelExt};
use qio_testkit::cut::{self, Script, Side};
use qio_testkit::pairs::{self, Sides, WS};
use qio_testkit::tls::{Local, name};
use qio_testkit::{Job, Pair, Plan, Subject, conformance, finish, scope, soon};
use rustls::SupportedProtocolVersion;
use rustls::version::{TLS12, TLS13};

/// The whole suite for a stack over a transport: both roles, plain and in chaos.
macro_rules! over {
    ($(#[$of_chaos:meta])? $name:ident, $transport:ty, $below:expr) => {
        mod $name {
            use super::*;

            #[test]
            fn as_client() {
                run(Subject::pair::<$transport>("client", || SIDES.over($below)));
            }

            #[test]
            fn as_server() {
                let make = || SIDES.over($below.swapped()).swapped();
                run(Subject::pair::<$transport>("server", make));
            }

            #[test]
            $(#[$of_chaos])?
            fn as_client_in_chaos() {
                let make = || SIDES.over(in_chaos($below));
                run(Subject::pair::<$transport>("client", make).in_chaos());
            }

            #[test]
            $(#[$of_chaos])?
            fn as_server_in_chaos() {
                let make = || SIDES.over(in_chaos($below).swapped()).swapped();
                run(Subject::pair::<$transport>("server", make).in_chaos());
            }
        }
    };
}

/// A stack over every transport, and cut at every byte.
macro_rules! stack {
    ($name:ident, $sides:expr) => {
        mod $name {
            use super::*;

            const SIDES: Sides = $sides;

            over!(unix, Socket, pairs::unix());
            over!(
                #[ignore = "`.ci/run full` runs it"]
                tcp,
                Socket,
                pairs::tcp()
            );
            over!(
                #[ignore = "`.ci/run full` runs it"]
                pipes,
                Pipe,
                pairs::pipes()
            );
            over!(
                #[ignore = "`.ci/run full` runs it"]
                child,
                Child,
                pairs::child()
            );
            over!(
                #[ignore = "`.ci/run full` runs it"]
                memory,
                Duplex,
                pairs::memory()
            );

            #[test]
            fn a_transport_that_would_block_at_any_byte_is_survived() {
                would_block_all(SIDES);
            }

            #[test]
            fn a_cut_at_some_bytes_of_the_wire_ends_every_call() {
                cut_all(SIDES, 37);
            }

            #[test]
            #[ignore = "`.ci/run full` runs it"]
            fn a_cut_at_any_byte_of_the_wire_ends_every_call() {
                cut_all(SIDES, 1);
            }
        }
    };
}

/// Every stack of an engine of TLS, which comes with what each side of TLS 1.2 and 1.3 does.
macro_rules! engine {
    ($name:ident, $tls_1_2:expr, $tls_1_3:expr) => {
        mod $name {
            use super::*;

            const TLS: Sides = $tls_1_3;

            stack!(tls_1_2, $tls_1_2);
            stack!(tls_1_3, TLS);
            stack!(
                ws_over_tls,
                Sides {
                    client: |below| (WS.client)((TLS.client)(below)?),
                    server: |below| (WS.server)((TLS.server)(below)?),
                }
            );
            stack!(
                tls_over_ws_over_tls,
                Sides {
                    client: |below| (TLS.client)((WS.client)((TLS.client)(below)?)?),
                    server: |below| (TLS.server)((WS.server)((TLS.server)(below)?)?),
                }
            );
        }
    };
}

/// Short reads and writes below the layers. What would block there may leave a part of a piece in a
/// layer until the next flush, which the suite does not make everywhere:
/// [`would_block_all`] is about that.
fn in_chaos(pair: Pair) -> Pair {
    pair.in_chaos(Plan::new(7).short(3000))
}

/// Handshake, session and farewell over a channel that would block at every other call, or moves a
/// byte at a time.
fn would_block_all(sides: Sides) {
    const VOLUME: usize = 20_000;
    scope(Duration::from_secs(60), |_| {
        for plan in
            [Plan::new(3).would_block_every(2), Plan::new(5).one_byte().would_block_every(3)]
        {
            let pair = sides.over(pairs::unix().in_chaos(plan));
            let send = |channel: &Arc<dyn Channel>, byte: u8| {
                let channel = Arc::clone(channel);
                Job::start(move || {
                    channel.write_all(&[byte; VOLUME]).unwrap();
                    channel.finish_all(soon()).unwrap();
                })
            };
            let receive = |channel: &Arc<dyn Channel>, byte: u8| {
                let channel = Arc::clone(channel);
                Job::start(move || {
                    let mut got = vec![0; VOLUME];
                    channel.read_exact(&mut got).unwrap();
                    assert!(got.iter().all(|it| *it == byte));
                    assert!(!channel.read_exact_or_eof(&mut [0]).unwrap());
                })
            };
            let Pair { left, right, .. } = pair;
            let jobs = [send(&left, 1), send(&right, 2), receive(&left, 2), receive(&right, 1)];
            for job in jobs {
                job.finish();
            }
        }
    });
}

fn run(subject: Subject) {
    conformance::run_all(&subject.with_farewell());
}

fn cut_all(sides: Sides, step: usize) {
    let script = Script::new()
        .turn(Side::Left, b"hello")
        .turn(Side::Right, b"hi")
        .turn(Side::Left, b"how are you")
        .turn(Side::Right, b"fine");
    scope(Duration::from_secs(300), |_| {
        cut::after_bytes_of_the_wire(sides, &pairs::memory, &script, step);
        cut::after_bytes_of_the_wire(sides, &pairs::unix, &script, 4 * step);
    });
}

stack!(ws, WS);
engine!(rustls_engine, RUSTLS_1_2, RUSTLS_1_3);

const RUSTLS_1_2: Sides = Sides {
    client: |below| rustls_client(below, &TLS12),
    server: |below| rustls_server(below, &TLS12),
};

const RUSTLS_1_3: Sides = Sides {
    client: |below| rustls_client(below, &TLS13),
    server: |below| rustls_server(below, &TLS13),
};

type Link = std::io::Result<Arc<dyn Channel>>;

fn rustls_client(below: Arc<dyn Channel>, version: &'static SupportedProtocolVersion) -> Link {
    let handshake = tls::client(below, local(version).client(), name(), soon())?;
    Ok(Arc::new(finish(handshake)?.into_layer(tls::NAME)))
}

fn rustls_server(below: Arc<dyn Channel>, version: &'static SupportedProtocolVersion) -> Link {
    let handshake = tls::server(below, local(version).server(), soon())?;
    Ok(Arc::new(finish(handshake)?.into_layer(tls::NAME)))
}

/// A subject begins with nothing on the wire.
fn local(version: &'static SupportedProtocolVersion) -> Local {
    Local { versions: vec![version], tickets: 0, ..Local::default() }
}
