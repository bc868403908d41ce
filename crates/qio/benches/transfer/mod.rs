//! Moving bytes from one thread to another, beside a control that moves as many.

use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use crate::paired::{Spread, alternate};

/// One row of a table: both speeds in GB/s, their ratio, and whether it is what was promised.
pub(crate) fn row(
    name: &str,
    promised: f64,
    pairs: usize,
    bytes: usize,
    ours: impl Fn(usize) -> Duration,
    control: impl Fn(usize) -> Duration,
) {
    let speed = |time: Duration| bytes as f64 / time.as_secs_f64() / 1e9;
    let speeds = alternate(pairs, || speed(ours(bytes)), || speed(control(bytes)));
    let ratios = Spread::of(speeds.iter().map(|(ours, control)| ours / control));
    println!(
        "| {name} | {:.2} | {:.2} | {ratios:.3} | {promised} {} |",
        Spread::of(speeds.iter().map(|(ours, _)| *ours)).median(),
        Spread::of(speeds.iter().map(|(_, control)| *control)).median(),
        if ratios.median() >= promised { "holds" } else { "BROKEN" },
    );
}

/// The time from the first byte to the last, with `send` and `receive` on threads of their own.
pub(crate) fn transfer(send: impl FnOnce() + Send, receive: impl FnOnce() + Send) -> Duration {
    let start = Barrier::new(2);
    thread::scope(|scope| {
        scope.spawn(|| {
            start.wait();
            send();
        });
        start.wait();
        let began = Instant::now();
        receive();
        began.elapsed()
    })
}
