//! User-space instructions of an event in loops, each beside what the loop has without qio.
//!
//! `cargo bench -p qio-adapters --all-features --bench instructions` needs valgrind and gungraun's
//! runner, as the bench of the same name in `qio` does. An event is a byte that the peer writes, one
//! turn of the loop, and a callback that reads it, in both cases through the channel: what reading
//! costs is counted there. The exit status is 1 when a bound is broken.

#[expect(dead_code, reason = "other bounds than these")]
#[path = "../../qio/benches/counted/mod.rs"]
mod counted;
#[path = "watched/mod.rs"]
mod watched;

use std::process::ExitCode;

use counted::{Bound, Row};

const ROWS: &[Row] = &[
    Row {
        name: "calloop: watch / Generic",
        function: "calloop_watch",
        control: "calloop_generic",
        rounds: cases::EVENTS,
        bound: Bound::Times(1.2),
    },
    Row {
        name: "GLib: watch / source of a descriptor",
        function: "glib_watch",
        control: "glib_source",
        rounds: cases::EVENTS,
        bound: Bound::Times(1.2),
    },
];

fn main() -> ExitCode {
    counted::main(ROWS, cases::run)
}

mod cases {
    //! What is counted: everything inside a function marked as a benchmark.

    use std::io::Write;
    use std::os::fd::AsRawFd;
    use std::os::unix::net::UnixStream;

    use calloop::generic::{Generic, NoIoDrop};
    use calloop::{EventLoop, PostAction};
    use glib::{IOCondition, MainContext};
    use gungraun::{library_benchmark, library_benchmark_group};
    use qio::ChannelExt;

    use super::watched::{self, socket, unix};

    pub(super) const EVENTS: u64 = 1000;

    type Turns = (UnixStream, EventLoop<'static, ()>);
    type Context = (UnixStream, MainContext);

    /// Made, and turned once: what is set up with the first event is set up.
    fn turned((mut left, mut turns): Turns) -> Turns {
        left.write_all(b"x").expect("write");
        turns.dispatch(None, &mut ()).expect("dispatch");
        (left, turns)
    }

    fn watch_in_calloop() -> Turns {
        turned(watched::watch_in_calloop())
    }

    fn generic_in_calloop() -> Turns {
        let (left, right) = unix();
        let turns = EventLoop::try_new().expect("a loop");
        let polled = right.try_clone().expect("a duplicate");
        let source = Generic::new(polled, calloop::Interest::READ, calloop::Mode::Level);
        let right = socket(right);
        let called = move |_, _: &mut NoIoDrop<UnixStream>, (): &mut ()| {
            right.read(&mut [0])?;
            Ok(PostAction::Continue)
        };
        turns.handle().insert_source(source, called).expect("a source");
        turned((left, turns))
    }

    fn iterated((mut left, context): Context) -> Context {
        left.write_all(b"x").expect("write");
        context.iteration(true);
        (left, context)
    }

    fn watch_in_glib() -> Context {
        let (left, _attached) = watched::watch_in_glib();
        iterated((left, MainContext::default()))
    }

    fn source_in_glib() -> Context {
        let (left, right) = unix();
        let polled = right.try_clone().expect("a duplicate");
        let right = socket(right);
        glib_unix::unix_fd_add_local(polled.as_raw_fd(), IOCondition::IN, move |_, _| {
            right.read(&mut [0]).expect("read");
            // It lives as long as what polls it.
            let _ = &polled;
            glib::ControlFlow::Continue
        });
        iterated((left, MainContext::default()))
    }

    fn dispatch((mut left, mut turns): Turns) -> Turns {
        for _ in 0..EVENTS {
            left.write_all(b"x").expect("write");
            turns.dispatch(None, &mut ()).expect("dispatch");
        }
        (left, turns)
    }

    fn iterate((mut left, context): Context) -> Context {
        for _ in 0..EVENTS {
            left.write_all(b"x").expect("write");
            context.iteration(true);
        }
        (left, context)
    }

    #[library_benchmark(setup = watch_in_calloop)]
    #[bench::events()]
    fn calloop_watch(turns: Turns) -> Turns {
        dispatch(turns)
    }

    #[library_benchmark(setup = generic_in_calloop)]
    #[bench::events()]
    fn calloop_generic(turns: Turns) -> Turns {
        dispatch(turns)
    }

    #[library_benchmark(setup = watch_in_glib)]
    #[bench::events()]
    fn glib_watch(context: Context) -> Context {
        iterate(context)
    }

    #[library_benchmark(setup = source_in_glib)]
    #[bench::events()]
    fn glib_source(context: Context) -> Context {
        iterate(context)
    }

    library_benchmark_group!(
        name = events;
        benchmarks = calloop_watch, calloop_generic, glib_watch, glib_source
    );

    gungraun::main!(library_benchmark_groups = events);

    /// Runs the benchmarks, or, started by the runner, the one that it asked for.
    pub(super) fn run() {
        main();
    }
}
