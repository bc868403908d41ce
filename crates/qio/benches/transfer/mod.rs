//! Moving bytes from one thread to another, beside a control that moves as many.

use std::ops::{Div, Mul};
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

use crate::paired::{Spread, alternate};

/// What a run has taken.
///
/// On a machine that others use as well, the time on the wall tells more of them than of the code;
/// the time of the processor, user and system, of the threads that moved the bytes does not.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cost {
    pub(crate) wall: Duration,
    pub(crate) cpu: Duration,
}

impl Cost {
    /// The cost of some work on this thread.
    pub(crate) fn of(work: impl FnOnce()) -> Self {
        let (began, cpu) = (Instant::now(), thread_cpu());
        work();
        Self { wall: began.elapsed(), cpu: thread_cpu() - cpu }
    }
}

impl Mul<u32> for Cost {
    type Output = Self;

    fn mul(self, times: u32) -> Self {
        Self { wall: self.wall * times, cpu: self.cpu * times }
    }
}

impl Div<u32> for Cost {
    type Output = Self;

    fn div(self, parts: u32) -> Self {
        Self { wall: self.wall / parts, cpu: self.cpu / parts }
    }
}

/// The head of a table of rows.
pub(crate) const HEAD: &str = "\
| what | qio GB/s | control GB/s | ratio | quartiles | min..max | CPU s/GB | control | CPU ratio \
| quartiles | promised |
|---|---:|---:|---:|---|---|---:|---:|---:|---|---|";

/// One row of a table: both speeds in GB/s and their ratio, what both cost the processor and the
/// ratio of that (as a speed: above 1 is less), and whether they are what was promised.
pub(crate) fn row(
    name: &str,
    promised: Option<f64>,
    pairs: usize,
    bytes: usize,
    ours: impl Fn(usize) -> Cost,
    control: impl Fn(usize) -> Cost,
) {
    let costs = alternate(pairs, || ours(bytes), || control(bytes));
    let gigabytes = bytes as f64 / 1e9;
    let speed = |cost: &Cost| gigabytes / cost.wall.as_secs_f64();
    let price = |cost: &Cost| cost.cpu.as_secs_f64() / gigabytes;
    let spread = |value: &dyn Fn(&(Cost, Cost)) -> f64| Spread::of(costs.iter().map(value));
    let wall = spread(&|(ours, control)| speed(ours) / speed(control));
    let cpu = spread(&|(ours, control)| price(control) / price(ours));
    let verdict = match promised {
        None => "–".to_owned(),
        Some(least) if wall.median() >= least => format!("{least} holds"),
        Some(least) if cpu.median() >= least => format!("{least} holds on the CPU"),
        Some(least) => format!("{least} BROKEN"),
    };
    println!(
        "| {name} | {:.2} | {:.2} | {wall:.3} | {:.3} | {:.3} | {cpu:#.3} | {verdict} |",
        spread(&|(ours, _)| speed(ours)).median(),
        spread(&|(_, control)| speed(control)).median(),
        spread(&|(ours, _)| price(ours)).median(),
        spread(&|(_, control)| price(control)).median(),
    );
}

/// The time from the first byte to the last, with `send` and `receive` on threads of their own,
/// and the processor's of both.
pub(crate) fn transfer(send: impl FnOnce() + Send, receive: impl FnOnce() + Send) -> Cost {
    let start = Barrier::new(2);
    thread::scope(|scope| {
        let sender = scope.spawn(|| {
            start.wait();
            Cost::of(send).cpu
        });
        start.wait();
        let received = Cost::of(receive);
        let sent = sender.join().expect("the sender");
        Cost { cpu: received.cpu + sent, ..received }
    })
}

fn thread_cpu() -> Duration {
    clock_gettime(ClockId::ThreadCPUTime).try_into().expect("a time that has passed")
}
