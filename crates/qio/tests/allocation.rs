//! After set-up, moving bytes and waiting allocates nothing.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::io::{ErrorKind, IoSlice, IoSliceMut};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use qio::transport::Socket;
use qio::{Channel, ChannelExt, FdSink, Interest, Mode, ReadFlags, WriteFlags};

/// Counts what a thread allocates, and leaves the allocating to the system.
struct Counting;

thread_local! {
    // Constant and without a destructor: using it never allocates, and works while a thread ends.
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

fn count() {
    ALLOCATIONS.set(ALLOCATIONS.get() + 1);
}

// SAFETY: every method hands its arguments unchanged to `System`, which is a `GlobalAlloc`, and its
// result back; counting touches nothing but an integer of this thread and cannot unwind (the sum
// of allocations does not overflow 64 bits).
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller promises for `layout` what `System::alloc` demands (a size above 0).
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: as in `alloc`.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, old: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        // SAFETY: `old` came from one of these methods, so from `System`, with `layout`; the
        // caller promises a valid new size.
        unsafe { System.realloc(old, layout, size) }
    }

    unsafe fn dealloc(&self, old: *mut u8, layout: Layout) {
        // SAFETY: `old` came from one of these methods, so from `System`, with `layout`.
        unsafe { System.dealloc(old, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// The operation, run once as set-up and then counted several times.
#[track_caller]
fn allocates_nothing(name: &str, mut operation: impl FnMut()) {
    operation();
    let before = ALLOCATIONS.get();
    for _ in 0..10 {
        operation();
    }
    assert_eq!(ALLOCATIONS.get() - before, 0, "allocations of ten times: {name}");
}

fn pair() -> (Box<dyn Channel>, Box<dyn Channel>) {
    let (left, right) = Socket::pair().expect("socketpair");
    (Box::new(left), Box::new(right))
}

#[test]
fn the_count_sees_an_allocation() {
    let before = ALLOCATIONS.get();
    drop(std::hint::black_box(Box::new(1)));
    assert_eq!(ALLOCATIONS.get() - before, 1);
}

#[test]
fn plain_and_complete_reads_and_writes() {
    let (left, right) = pair();
    let mut buf = [0; 4096];
    allocates_nothing("write and read", || {
        left.write(b"x").unwrap();
        assert_eq!(right.read(&mut buf).unwrap(), 1);
    });
    allocates_nothing("write_all and read_exact", || {
        left.write_all(&[7; 4096]).unwrap();
        right.read_exact(&mut buf).unwrap();
    });
    allocates_nothing("read_exact_or_eof, in two parts", || {
        left.write_all(b"two").unwrap();
        left.write_all(b" parts").unwrap();
        assert!(right.read_exact_or_eof(&mut buf[..9]).unwrap());
    });
    allocates_nothing("peek", || {
        left.write_all(b"x").unwrap();
        assert_eq!(right.peek(&mut buf).unwrap(), 1);
        right.read_exact(&mut buf[..1]).unwrap();
    });
    for mode in [Mode::Blocking, Mode::NonBlocking] {
        left.set_mode(mode).unwrap();
        right.set_mode(mode).unwrap();
        let mut space = vec![[0; 4096]; 16];
        allocates_nothing("16 buffers of 4 KiB", || {
            let page = [7; 4096];
            let mut out = [IoSlice::new(&page); 16];
            left.write_vectored_all(&mut out).unwrap();
            let [a, b, rest @ ..] = &mut space[..] else { unreachable!() };
            let mut first = [IoSliceMut::new(a), IoSliceMut::new(b)];
            right.read_vectored_exact(&mut first).unwrap();
            let mut rest = rest.iter_mut();
            let mut bufs: [_; 14] = std::array::from_fn(|_| IoSliceMut::new(rest.next().unwrap()));
            right.read_vectored_exact(&mut bufs).unwrap();
        });
    }
}

#[test]
fn descriptors_into_a_sink_with_room() {
    let (left, right) = pair();
    let mut sink = FdSink::new(16);
    let file = std::io::stdin();
    allocates_nothing("four descriptors", || {
        let fds = [file.as_fd(); 4];
        left.write_with(&[IoSlice::new(b"x")], WriteFlags::empty(), &fds).unwrap();
        let mut buf = [0];
        let mut bufs = [IoSliceMut::new(&mut buf)];
        right.read_with(&mut bufs, ReadFlags::empty(), Some(&mut sink)).unwrap();
        assert_eq!(sink.drain().count(), 4);
    });
}

#[test]
fn waits_that_end_by_readiness_or_by_time() {
    let (left, right) = pair();
    left.write_all(b"x").unwrap();
    let far = Instant::now() + Duration::from_secs(3600);
    allocates_nothing("wait", || {
        right.wait(Interest::READ, None).unwrap();
    });
    allocates_nothing("wait for both directions", || {
        right.wait(Interest::READ | Interest::WRITE, None).unwrap();
    });
    allocates_nothing("wait with a deadline", || {
        right.wait(Interest::READ, Some(far)).unwrap();
    });
    allocates_nothing("wait until the time is up", || {
        let error = left.wait(Interest::READ, Some(Instant::now())).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TimedOut);
    });
}

#[test]
fn would_block() {
    let (left, right) = pair();
    left.set_mode(Mode::NonBlocking).unwrap();
    right.set_mode(Mode::NonBlocking).unwrap();
    let mut buf = [0; 4096];
    allocates_nothing("a read that would block", || {
        assert_eq!(right.read(&mut buf).unwrap_err().kind(), ErrorKind::WouldBlock);
    });
    let mut sink = FdSink::new(16);
    allocates_nothing("a read for descriptors that would block", || {
        let mut bufs = [IoSliceMut::new(&mut buf)];
        let result = right.read_with(&mut bufs, ReadFlags::empty(), Some(&mut sink));
        assert_eq!(result.unwrap_err().kind(), ErrorKind::WouldBlock);
    });
    while left.write(&buf).is_ok() {}
    allocates_nothing("a write that would block", || {
        assert_eq!(left.write(b"x").unwrap_err().kind(), ErrorKind::WouldBlock);
    });
}

#[test]
fn websockets() {
    let (left, right) = Socket::pair().unwrap();
    let pair = qio_testkit::pairs::ws_over(qio_testkit::Pair::new(left, right));
    for (name, from, to) in
        [("from the client", &pair.left, &pair.right), ("from the server", &pair.right, &pair.left)]
    {
        for size in [1, 128, 4096, 64 << 10] {
            let (out, mut buf) = (vec![7; size], vec![0; size]);
            let mut message = || {
                from.write_all(&out).unwrap();
                to.read_exact(&mut buf).unwrap();
            };
            // Two: what the handshake left behind is out of the way after the first.
            message();
            allocates_nothing(&format!("{size} bytes of a WebSocket {name}"), message);
        }
    }
}

/// rustls makes a vector of what it encrypts, and one of what it has decrypted: a record at a time.
/// Where that of a large record is taken from it, it gets a tiny one instead.
#[cfg(feature = "tls")]
#[test]
fn tls_allocates_two_vectors_for_a_record_and_a_tiny_one_for_a_large_record() {
    use qio_testkit::Pair;
    use qio_testkit::tls::Local;

    let (left, right) = Socket::pair().unwrap();
    let pair = Local::default().over(Pair::new(left, right));
    // Tickets are out of the way after a round trip.
    pair.right.write_all(b"x").unwrap();
    pair.left.read_exact(&mut [0]).unwrap();
    let mut buf = vec![0; 16 << 10];
    for (size, each) in [(1, 2), (128, 2), (4096, 3), (16 << 10, 3)] {
        let out = vec![7; size];
        let mut record = || {
            pair.left.write_all(&out).unwrap();
            pair.right.read_exact(&mut buf[..size]).unwrap();
        };
        // Two: what the handshake left behind is out of the way after the first.
        record();
        record();
        let before = ALLOCATIONS.get();
        (0..10).for_each(|_| record());
        assert_eq!(ALLOCATIONS.get() - before, 10 * each, "ten records of {size} bytes");
    }
}
