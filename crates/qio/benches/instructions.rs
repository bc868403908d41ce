//! User-space instructions of the core operations, each beside a raw control.
//!
//! `cargo bench -p qio --bench instructions` needs valgrind and gungraun's runner:
//! `cargo install gungraun-runner --version 0.20.0` (the version of the library in `Cargo.lock`).
//! The last table is per operation, with the difference to the control; the exit status is 1 when
//! a bound is broken.

#[expect(dead_code, reason = "other bounds than these")]
mod counted;

use std::process::ExitCode;

use counted::{Bound, Row};

const ROWS: &[Row] = &[
    Row {
        name: "1 byte: write + read",
        function: "write_read",
        control: "write_read_raw",
        rounds: cases::ROUNDS,
        bound: Bound::AboveControl(170),
    },
    Row {
        name: "1 byte: write_all + read_exact",
        function: "all_exact",
        control: "write_read_raw",
        rounds: cases::ROUNDS,
        bound: Bound::AboveControl(190),
    },
    Row {
        name: "4 descriptors: send + receive",
        function: "pass_four",
        control: "pass_four_raw",
        rounds: cases::MESSAGES,
        bound: Bound::Total(750),
    },
    Row {
        name: "wait, ready, no deadline",
        function: "wait_ready",
        control: "poll_ready_raw",
        rounds: cases::ROUNDS,
        bound: Bound::Total(180),
    },
    Row {
        name: "wait, ready, with a deadline",
        function: "wait_ready_deadline",
        control: "poll_ready_deadline_raw",
        rounds: cases::ROUNDS,
        bound: Bound::Total(330),
    },
];

fn main() -> ExitCode {
    counted::main(ROWS, cases::run)
}

#[expect(unused_qualifications, reason = "in what the attribute macros generate")]
mod cases {
    //! What is counted: everything inside a function marked as a benchmark, and nothing else.
    //! Set-up and the dropping of what a benchmark returns are outside.

    use std::hint::black_box;
    use std::io::{IoSlice, IoSliceMut};
    use std::mem::MaybeUninit;
    use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
    use std::time::{Duration, Instant};

    use gungraun::{library_benchmark, library_benchmark_group};
    use qio::transport::Socket;
    use qio::{Channel, ChannelExt, FdSink, Interest, ReadFlags, WriteFlags};
    use rustix::event::{PollFd, PollFlags, Timespec};
    use rustix::net::{
        AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
        SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
    };

    pub(super) const ROUNDS: u64 = 1000;

    /// Fewer, because what arrives stays open: closing is not part of the measurement.
    pub(super) const MESSAGES: u64 = 100;

    type Channels = (Box<dyn Channel>, Box<dyn Channel>);

    fn raw_pair() -> (OwnedFd, OwnedFd) {
        rustix::net::socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)
            .expect("socketpair")
    }

    /// A pair that was used once: what is set up lazily is set up.
    fn pair() -> Channels {
        let (left, right) = Socket::pair().expect("socketpair");
        left.write_all(b"x").expect("write");
        right.wait(Interest::READ, Some(soon())).expect("wait");
        right.read_exact(&mut [0]).expect("read");
        (Box::new(left), Box::new(right))
    }

    fn ready_pair() -> Channels {
        let (left, right) = pair();
        left.write_all(b"x").expect("write");
        (left, right)
    }

    fn ready_raw_pair() -> (OwnedFd, OwnedFd) {
        let (left, right) = raw_pair();
        rustix::io::write(&left, b"x").expect("write");
        (left, right)
    }

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(600)
    }

    fn with_sinks() -> (Channels, Vec<FdSink>) {
        (pair(), (0..MESSAGES).map(|_| FdSink::new(16)).collect())
    }

    fn with_vectors() -> ((OwnedFd, OwnedFd), Vec<Vec<OwnedFd>>) {
        (raw_pair(), (0..MESSAGES).map(|_| Vec::with_capacity(16)).collect())
    }

    #[library_benchmark(setup = raw_pair)]
    #[bench::pair()]
    fn write_read_raw((left, right): (OwnedFd, OwnedFd)) -> (OwnedFd, OwnedFd) {
        for _ in 0..ROUNDS {
            let _ = black_box(rustix::io::write(&left, black_box(b"x")));
            let mut buf = [0u8];
            let _ = black_box(rustix::io::read(&right, &mut buf[..]));
            black_box(buf);
        }
        (left, right)
    }

    #[library_benchmark(setup = pair)]
    #[bench::pair()]
    fn write_read((left, right): Channels) -> Channels {
        for _ in 0..ROUNDS {
            let _ = black_box(left.write(black_box(b"x")));
            let mut buf = [0u8];
            let _ = black_box(right.read(&mut buf));
            black_box(buf);
        }
        (left, right)
    }

    #[library_benchmark(setup = pair)]
    #[bench::pair()]
    fn all_exact((left, right): Channels) -> Channels {
        for _ in 0..ROUNDS {
            let _ = black_box(left.write_all(black_box(b"x")));
            let mut buf = [0u8];
            let _ = black_box(right.read_exact(&mut buf));
            black_box(buf);
        }
        (left, right)
    }

    #[library_benchmark(setup = with_vectors)]
    #[bench::pair()]
    fn pass_four_raw(
        ((left, right), mut sinks): ((OwnedFd, OwnedFd), Vec<Vec<OwnedFd>>),
    ) -> ((OwnedFd, OwnedFd), Vec<Vec<OwnedFd>>) {
        for sink in &mut sinks {
            let fds = black_box([left.as_fd(); 4]);
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
            let mut control = SendAncillaryBuffer::new(&mut space);
            control.push(SendAncillaryMessage::ScmRights(&fds));
            let bufs = [IoSlice::new(black_box(b"x"))];
            let sent = rustix::net::sendmsg(&left, &bufs, &mut control, SendFlags::NOSIGNAL);
            let _ = black_box(sent);
            let mut buf = [0u8];
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(16))];
            let mut control = RecvAncillaryBuffer::new(&mut space);
            let mut bufs = [IoSliceMut::new(&mut buf)];
            let flags = RecvFlags::CMSG_CLOEXEC;
            let _ = black_box(rustix::net::recvmsg(&right, &mut bufs, &mut control, flags));
            for message in control.drain() {
                if let RecvAncillaryMessage::ScmRights(fds) = message {
                    sink.extend(fds);
                }
            }
            black_box(&buf);
        }
        ((left, right), sinks)
    }

    #[library_benchmark(setup = with_sinks)]
    #[bench::pair()]
    fn pass_four(((left, right), mut sinks): (Channels, Vec<FdSink>)) -> (Channels, Vec<FdSink>) {
        let stdin = std::io::stdin();
        for sink in &mut sinks {
            let fds: [BorrowedFd<'_>; 4] = black_box([stdin.as_fd(); 4]);
            let sent = left.write_with(&[IoSlice::new(black_box(b"x"))], WriteFlags::empty(), &fds);
            let _ = black_box(sent);
            let mut buf = [0u8];
            let mut bufs = [IoSliceMut::new(&mut buf)];
            let _ = black_box(right.read_with(&mut bufs, ReadFlags::empty(), Some(sink)));
            black_box(&buf);
        }
        ((left, right), sinks)
    }

    #[library_benchmark(setup = ready_raw_pair)]
    #[bench::pair()]
    fn poll_ready_raw((left, right): (OwnedFd, OwnedFd)) -> (OwnedFd, OwnedFd) {
        for _ in 0..ROUNDS {
            let mut fds = [PollFd::new(&right, PollFlags::IN)];
            let _ = black_box(rustix::event::poll(&mut fds, None));
            black_box(fds[0].revents());
        }
        (left, right)
    }

    #[library_benchmark(setup = ready_raw_pair)]
    #[bench::pair()]
    fn poll_ready_deadline_raw((left, right): (OwnedFd, OwnedFd)) -> (OwnedFd, OwnedFd) {
        let deadline = soon();
        for _ in 0..ROUNDS {
            let left = black_box(deadline).saturating_duration_since(Instant::now());
            let timeout =
                Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() };
            let mut fds = [PollFd::new(&right, PollFlags::IN)];
            let _ = black_box(rustix::event::poll(&mut fds, Some(&timeout)));
            black_box(fds[0].revents());
        }
        (left, right)
    }

    #[library_benchmark(setup = ready_pair)]
    #[bench::pair()]
    fn wait_ready((left, right): Channels) -> Channels {
        for _ in 0..ROUNDS {
            let _ = black_box(right.wait(Interest::READ, None));
        }
        (left, right)
    }

    #[library_benchmark(setup = ready_pair)]
    #[bench::pair()]
    fn wait_ready_deadline((left, right): Channels) -> Channels {
        let deadline = soon();
        for _ in 0..ROUNDS {
            let _ = black_box(right.wait(Interest::READ, Some(black_box(deadline))));
        }
        (left, right)
    }

    library_benchmark_group!(
        name = core;
        benchmarks = write_read_raw, write_read, all_exact, pass_four_raw, pass_four,
            poll_ready_raw, poll_ready_deadline_raw, wait_ready, wait_ready_deadline
    );

    gungraun::main!(library_benchmark_groups = core);

    /// Runs the benchmarks, or, started by the runner, the one that it asked for.
    pub(super) fn run() {
        main();
    }
}
