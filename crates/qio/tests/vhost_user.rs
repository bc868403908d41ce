//! An exchange like that of vhost-user, between two processes: messages of a header of 12 bytes, a
//! payload, and up to 16 descriptors, each answered, however the bytes are cut into segments.

#![expect(clippy::unwrap_used, reason = "a test program")]

mod common;

use std::fs::File;
use std::io::{IoSlice, IoSliceMut, Result};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::time::Duration;

use common::{eventually, impatiently, open_fds, with_other_process};
use qio::transport::Socket;
use qio::{Channel, ChannelExt, FdSink, Mode, ReadFlags, WriteFlags};
use qio_testkit::scope;
use rustix::fs::MemfdFlags;

const LIMIT: Duration = Duration::from_secs(60);

/// As many as vhost-user has memory regions, and a fault of the first channels with descriptors.
const FDS: usize = 16;

const HEADER: usize = 12;

/// The request, flags of the version, and the size of the payload: three words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Header {
    request: u32,
    flags: u32,
    size: u32,
}

const VERSION: u32 = 1;
const REPLY: u32 = 1 << 2;

impl Header {
    fn to_bytes(self) -> [u8; HEADER] {
        let words = [self.request, self.flags, self.size].map(u32::to_ne_bytes);
        words.concat().try_into().unwrap()
    }

    fn of_bytes(bytes: [u8; HEADER]) -> Self {
        let word = |at| u32::from_ne_bytes(*bytes[at..].first_chunk().unwrap());
        Self { request: word(0), flags: word(4), size: word(8) }
    }
}

fn payload(request: u32) -> Vec<u8> {
    // Of a different length each time, and once of none.
    let len = [20, 0, 1, 33][request as usize % 4];
    (0..len).map(|i| (request as u8).wrapping_mul(31).wrapping_add(i)).collect()
}

/// What the file that travels as number `index` with this request holds.
fn content(request: u32, index: usize) -> [u8; 8] {
    (u64::from(request) << 32 | index as u64).to_ne_bytes()
}

fn files(request: u32) -> Vec<OwnedFd> {
    let file = |index| {
        let file = rustix::fs::memfd_create("region", MemfdFlags::CLOEXEC).unwrap();
        File::from(file.try_clone().unwrap()).write_all_at(&content(request, index), 0).unwrap();
        file
    };
    (0..FDS).map(file).collect()
}

fn check_files(request: u32, sink: &mut FdSink) {
    assert_eq!(sink.fds().len(), FDS, "descriptors of request {request}");
    for (index, fd) in sink.drain().enumerate() {
        let flags = rustix::io::fcntl_getfd(&fd).unwrap();
        assert!(flags.contains(rustix::io::FdFlags::CLOEXEC));
        let mut found = [0; 8];
        File::from(fd).read_exact_at(&mut found, 0).unwrap();
        assert_eq!(found, content(request, index), "descriptor {index} of request {request}");
    }
}

/// Sends one message cut in two, the descriptors with segment `carrier`. A `reader` gets the second
/// one after it has taken the first and sleeps for the rest.
fn send(
    socket: &Socket,
    message: (Header, &[u8], &[OwnedFd]),
    (cut, carrier): (usize, usize),
    reader: Option<u32>,
) {
    let (header, payload, fds) = message;
    let bytes = [&header.to_bytes(), payload].concat();
    let fds: Vec<BorrowedFd<'_>> = fds.iter().map(AsFd::as_fd).collect();
    let (first, second) = bytes.split_at(cut);
    for (number, segment) in [first, second].into_iter().enumerate() {
        if segment.is_empty() {
            continue;
        }
        if let Some(reader) = reader.filter(|_| number == 1) {
            eventually("the reader sleeps", || is_asleep(reader));
        }
        let fds: &[_] = if number == carrier { &fds } else { &[] };
        socket.write_all_with(&mut [IoSlice::new(segment)], WriteFlags::empty(), fds).unwrap();
    }
}

/// Whether no thread of the process runs. A write to a sleeping reader has woken it, when it
/// returns: a reader that sleeps again has found too little.
fn is_asleep(process: u32) -> bool {
    let tasks = std::fs::read_dir(format!("/proc/{process}/task")).unwrap();
    tasks.flatten().all(|task| {
        let stat = std::fs::read_to_string(task.path().join("stat")).unwrap_or_default();
        stat.rsplit_once(") ").is_none_or(|(_, state)| state.starts_with('S'))
    })
}

/// Receives one message: all its bytes, with one sink for what comes beside any of them; `false` at
/// the end of the conversation.
fn receive(socket: &Socket, sink: &mut FdSink) -> Result<Option<(Header, Vec<u8>)>> {
    let mut header = [0; HEADER];
    let into = &mut [IoSliceMut::new(&mut header)];
    if !socket.read_exact_or_eof_with(into, ReadFlags::empty(), Some(sink))? {
        return Ok(None);
    }
    let header = Header::of_bytes(header);
    let mut payload = vec![0; header.size as usize];
    let into = &mut [IoSliceMut::new(&mut payload)];
    socket.read_exact_with(into, ReadFlags::empty(), Some(sink))?;
    Ok(Some((header, payload)))
}

/// Every way to cut a message in two with the descriptors on either part, and not at all.
fn segments(len: usize) -> impl Iterator<Item = (usize, usize)> {
    let cut = (1..len).flat_map(|cut| [(cut, 0), (cut, 1)]);
    cut.chain([(len, 0)])
}

/// Answers every request with its own payload, backwards, and descriptors of its own for a fourth
/// of them.
fn serve(socket: &Socket) {
    let mut sink = FdSink::new(FDS);
    while let Some((header, payload)) = receive(socket, &mut sink).unwrap() {
        let Header { request, flags, size } = header;
        assert_eq!(flags, VERSION);
        assert_eq!(payload, self::payload(request));
        check_files(request, &mut sink);
        let mut answer = payload;
        answer.reverse();
        let fds = if request.is_multiple_of(4) { files(request) } else { Vec::new() };
        let header = Header { request, flags: VERSION | REPLY, size };
        send(socket, (header, &answer, &fds), (HEADER, 0), None);
    }
}

fn check_reply(socket: &Socket, request: u32, sink: &mut FdSink) {
    let (header, mut answer) = receive(socket, sink).unwrap().unwrap();
    answer.reverse();
    assert_eq!(answer, payload(request));
    let size = answer.len().try_into().unwrap();
    assert_eq!(header, Header { request, flags: VERSION | REPLY, size });
    if request.is_multiple_of(4) {
        check_files(request, sink);
    }
    assert_eq!(sink.fds().len(), 0, "nothing was asked for");
}

/// The whole conversation, in which each side receives in `mode`.
fn converse(test: &str, mode: Mode) {
    let there = |socket: Socket| {
        socket.set_mode(mode).unwrap();
        let before = open_fds();
        impatiently(|| serve(&socket));
        assert_eq!(open_fds(), before, "the server kept descriptors");
    };
    let here = |socket: Socket, reader: u32| {
        socket.set_mode(mode).unwrap();
        let mut sink = FdSink::new(FDS);
        let mut messages = 0;
        impatiently(|| {
            for kind in 0..4 {
                let len = HEADER + payload(kind).len();
                for (number, (cut, carrier)) in (0..).zip(segments(len)) {
                    let request = kind + 4 * number;
                    let payload = payload(request);
                    let size = payload.len().try_into().unwrap();
                    let header = Header { request, flags: VERSION, size };
                    let message = (header, &payload[..], &files(request)[..]);
                    send(&socket, message, (cut, carrier), Some(reader));
                    check_reply(&socket, request, &mut sink);
                    messages += 1;
                }
            }
            // Several under way at once come apart again.
            for request in 1000..1016 {
                let payload = payload(request);
                let size = payload.len().try_into().unwrap();
                let header = Header { request, flags: VERSION, size };
                let cut = (5, request as usize % 2);
                send(&socket, (header, &payload, &files(request)), cut, None);
            }
            for request in 1000..1016 {
                check_reply(&socket, request, &mut sink);
            }
        });
        // 32, 12, 13 and 45 bytes: twice at each place between two of them, and once whole.
        assert_eq!(messages, 2 * (31 + 11 + 12 + 44) + 4);
        socket.close().unwrap();
    };
    scope(LIMIT, |_| with_other_process(test, there, here));
}

#[test]
fn messages_with_descriptors_survive_every_cut_between_blocking_processes() {
    let name = "messages_with_descriptors_survive_every_cut_between_blocking_processes";
    converse(name, Mode::Blocking);
}

#[test]
fn messages_with_descriptors_survive_every_cut_between_non_blocking_processes() {
    let name = "messages_with_descriptors_survive_every_cut_between_non_blocking_processes";
    converse(name, Mode::NonBlocking);
}
