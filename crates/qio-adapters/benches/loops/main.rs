//! Channels in loops beside what programs use there without qio, in pairs.
//!
//! `cargo bench -p qio-adapters --all-features --bench loops [-- --quick] [--only WORD]`
//!
//! With `--side qio` or `--side control` the rows run once, that side alone, and nothing is said:
//! for strace(1), perf(1) and callgrind.
//!
//! Everything runs on one thread, both ends included, over TCP on the loopback where nothing else
//! is said; every run of qio has a run of its control right before or after it. The last table is
//! made by fresh processes: what the resident memory grows by for each idle connection.

mod memory;
#[path = "../../../qio/benches/paired/mod.rs"]
mod paired;
mod rows;
#[expect(dead_code, reason = "two threads move the bytes there")]
#[path = "../../../qio/benches/transfer/mod.rs"]
mod transfer;
#[path = "../watched/mod.rs"]
mod watched;
mod websockets;

use transfer::{Cost, HEAD, row};

/// What some work of so many bytes takes.
type Run<'a> = &'a dyn Fn(usize) -> Cost;

fn main() {
    let args: Vec<String> = std::env::args().collect();
    if args.iter().any(|arg| arg == "--test") {
        return;
    }
    if let Some(at) = args.iter().position(|arg| arg == "--idle") {
        return memory::measure(&args[at + 1], args[at + 2].parse().expect("a number"));
    }
    let quick = args.iter().any(|arg| arg == "--quick");
    let only = args.iter().position(|arg| arg == "--only").map(|at| args[at + 1].as_str());
    let wanted = |name: &str| only.is_none_or(|only| name.contains(only));
    let side = args.iter().position(|arg| arg == "--side").map(|at| args[at + 1].as_str());
    let (pairs, bytes) = if quick { (5, 16 << 20) } else { (21, 128 << 20) };
    let small = bytes >> 7;
    if side.is_none() {
        println!(
            "{pairs} pairs of {} MiB, or of {} KiB in small pieces\n",
            bytes >> 20,
            small >> 10
        );
        println!("{HEAD}");
    }
    let keys = rows::Keys::new();
    let tls = |n| rows::tls(&keys, n);
    let tokio_rustls = |n| rows::tokio_rustls(&keys, n);
    let all: [(&str, Option<f64>, usize, Run<'_>, Run<'_>); 12] = [
        ("64 B ping-pong / TcpStream", Some(0.95), small, &rows::ping, &rows::tokio_ping),
        ("64 KiB bulk / TcpStream", Some(0.95), bytes, &rows::bulk, &rows::tokio_bulk),
        ("tls, 16 KiB bulk / tokio-rustls", Some(1.0), bytes, &tls, &tokio_rustls),
        (
            "ws, 64 KiB bulk / tungstenite",
            Some(1.0),
            bytes,
            &|n| websockets::qio(n, 64 << 10),
            &|n| websockets::tungstenite(n, 64 << 10),
        ),
        (
            "ws, 64 KiB bulk / fastwebsockets",
            Some(1.0),
            bytes,
            &|n| websockets::qio(n, 64 << 10),
            &|n| websockets::fast(n, 64 << 10),
        ),
        (
            "ws, 128 B messages / tungstenite",
            Some(1.0),
            4 * small,
            &|n| websockets::qio(n, 128),
            &|n| websockets::tungstenite(n, 128),
        ),
        (
            "ws, 128 B messages / fastwebsockets",
            Some(1.0),
            4 * small,
            &|n| websockets::qio(n, 128),
            &|n| websockets::fast(n, 128),
        ),
        ("calloop, 1 event / Generic", Some(0.83), small / 64, &rows::calloop, &rows::bare_calloop),
        (
            "glib, 1 event / a source of the fd",
            Some(0.83),
            small / 64,
            &rows::glib,
            &rows::bare_glib,
        ),
        ("coroutine switch with a wait / task", None, small / 64, &rows::switch, &rows::tasks),
        ("coroutine switch / task", None, small / 4, &rows::bare_switch, &rows::bare_tasks),
        ("watch in tokio, 1 event / UnixStream", None, small / 64, &rows::watch, &rows::stream),
    ];
    for (name, promised, bytes, ours, control) in all {
        match side {
            _ if !wanted(name) => continue,
            None => row(name, promised, pairs, bytes, ours, control),
            Some("qio") => drop(ours(bytes)),
            Some(_) => drop(control(bytes)),
        }
    }
    if side.is_none() && wanted("memory") {
        memory::table(if quick { 1_000 } else { 10_000 });
    }
}
