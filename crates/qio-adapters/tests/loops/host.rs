//! One face for all loops.

use std::cell::RefCell;
use std::future::Future;
use std::ops::ControlFlow;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use qio::channel::Watch;
use qio::watch::{PollSet, Steps};
use qio::{Channel, Interest, Readiness};

pub(crate) type Callback =
    Box<dyn FnMut(Readiness, &mut Watch<Arc<dyn Channel>>) -> ControlFlow<()>>;

/// A loop that the suite runs on.
pub(crate) trait Host: Sized {
    type Id;

    /// Has what is made once and kept be there before a test counts descriptors.
    fn warm_up() {}

    fn new() -> Self;
    fn watch(
        &mut self,
        channel: Arc<dyn Channel>,
        interest: Interest,
        callback: Callback,
    ) -> Self::Id;
    fn remove(&mut self, id: Self::Id);
    fn run<S: Steps + 'static>(&mut self, steps: S, done: Box<dyn FnOnce(S::Output)>);

    /// Runs the loop until `done`, or until the time has passed; says which.
    fn turn(&mut self, done: &dyn Fn() -> bool, until: Instant) -> bool;
}

/// Runs the loop until it must have happened.
pub(crate) fn turn_until(host: &mut impl Host, what: &str, done: &dyn Fn() -> bool) {
    let happened = host.turn(done, Instant::now() + Duration::from_secs(10));
    assert!(happened, "{what} does not happen");
}

/// Runs the loop for a moment, in which nothing is to happen.
pub(crate) fn turn_a_moment(host: &mut impl Host) {
    host.turn(&|| false, Instant::now() + Duration::from_millis(20));
}

/// poll(2), by hand: all a loop has to do.
pub(crate) struct PollByHand {
    watches: Vec<Registered>,
    steps: Vec<Box<dyn Work>>,
    next: u32,
}

type Registered = (u32, Watch<Arc<dyn Channel>>, Callback);

/// Steps of any kind.
trait Work {
    /// Makes a step; `false` after the last.
    fn step(&mut self) -> bool;
    fn watch(&mut self, set: &mut PollSet);
    fn woken(&mut self, set: &PollSet);
}

struct Running<S: Steps> {
    steps: S,
    done: Option<Box<dyn FnOnce(S::Output)>>,
}

impl<S: Steps> Work for Running<S> {
    fn step(&mut self) -> bool {
        match self.steps.step(Instant::now()) {
            Poll::Pending => true,
            Poll::Ready(output) => {
                self.done.take().unwrap()(output);
                false
            }
        }
    }

    fn watch(&mut self, set: &mut PollSet) {
        self.steps.watch(set);
    }

    fn woken(&mut self, set: &PollSet) {
        self.steps.woken(set);
    }
}

impl Host for PollByHand {
    type Id = u32;

    fn new() -> Self {
        Self { watches: Vec::new(), steps: Vec::new(), next: 0 }
    }

    fn watch(&mut self, channel: Arc<dyn Channel>, interest: Interest, callback: Callback) -> u32 {
        self.next += 1;
        self.watches.push((self.next, Watch::new(channel, interest), callback));
        self.next
    }

    fn remove(&mut self, id: u32) {
        self.watches.retain(|(known, ..)| *known != id);
    }

    fn run<S: Steps + 'static>(&mut self, steps: S, done: Box<dyn FnOnce(S::Output)>) {
        self.steps.push(Box::new(Running { steps, done: Some(done) }));
    }

    fn turn(&mut self, done: &dyn Fn() -> bool, until: Instant) -> bool {
        while !done() {
            if Instant::now() > until {
                return false;
            }
            let mut all = PollSet::new();
            let mut known = Vec::new();
            self.steps.retain_mut(|steps| steps.step());
            if done() {
                break;
            }
            let mut working = Vec::new();
            for steps in &mut self.steps {
                let mut set = PollSet::new();
                steps.watch(&mut set);
                working.push((all.extend(&set), set));
            }
            for (_, watch, _) in &mut self.watches {
                let mut set = PollSet::new();
                let ready = watch.look(&mut set);
                if !ready.is_empty() {
                    all.wake_at(Instant::now());
                }
                known.push((ready, all.extend(&set), set));
            }
            all.poll(Some(until)).unwrap();
            for (steps, (first, mut set)) in self.steps.iter_mut().zip(working) {
                set.take_marks(&all, first);
                steps.woken(&set);
            }
            let mut watches = std::mem::take(&mut self.watches);
            let mut known = known.into_iter();
            watches.retain_mut(|(_, watch, callback)| {
                let (mut ready, first, mut set) = known.next().unwrap();
                if ready.is_empty() {
                    set.take_marks(&all, first);
                    ready = watch.settle(&mut set).unwrap();
                }
                ready.is_empty() || callback(ready, watch).is_continue()
            });
            // Callbacks may have added some.
            watches.append(&mut self.watches);
            self.watches = watches;
        }
        true
    }
}

pub(crate) struct Calloop(calloop::EventLoop<'static, ()>);

impl Host for Calloop {
    type Id = calloop::RegistrationToken;

    fn new() -> Self {
        Self(calloop::EventLoop::try_new().unwrap())
    }

    fn watch(
        &mut self,
        channel: Arc<dyn Channel>,
        interest: Interest,
        mut callback: Callback,
    ) -> Self::Id {
        let source = qio_adapters::calloop::watch(channel, interest);
        let callback =
            move |ready: std::io::Result<Readiness>, watch: &mut _, (): &mut ()| match callback(
                ready.unwrap(),
                watch,
            ) {
                ControlFlow::Continue(()) => calloop::PostAction::Continue,
                ControlFlow::Break(()) => calloop::PostAction::Remove,
            };
        self.0.handle().insert_source(source, callback).unwrap()
    }

    fn remove(&mut self, id: Self::Id) {
        self.0.handle().remove(id);
    }

    fn run<S: Steps + 'static>(&mut self, steps: S, done: Box<dyn FnOnce(S::Output)>) {
        let mut done = Some(done);
        let callback = move |output, _: &mut S, (): &mut ()| {
            done.take().unwrap()(output);
            calloop::PostAction::Continue
        };
        let source = qio_adapters::calloop::run(steps);
        self.0.handle().insert_source(source, callback).unwrap();
    }

    fn turn(&mut self, done: &dyn Fn() -> bool, until: Instant) -> bool {
        while !done() {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            self.0.dispatch(Some(left), &mut ()).unwrap();
        }
        true
    }
}

pub(crate) struct Glib(glib::MainContext);

impl Host for Glib {
    type Id = glib::Source;

    fn new() -> Self {
        Self(glib::MainContext::new())
    }

    fn watch(
        &mut self,
        channel: Arc<dyn Channel>,
        interest: Interest,
        mut callback: Callback,
    ) -> glib::Source {
        let callback =
            move |ready: std::io::Result<Readiness>, watch: &mut _| callback(ready.unwrap(), watch);
        let priority = glib::Priority::DEFAULT;
        let source = qio_adapters::glib::watch_local(channel, interest, priority, callback);
        source.attach(Some(&self.0));
        source
    }

    fn remove(&mut self, source: glib::Source) {
        source.destroy();
    }

    fn run<S: Steps + 'static>(&mut self, steps: S, done: Box<dyn FnOnce(S::Output)>) {
        let priority = glib::Priority::DEFAULT;
        qio_adapters::glib::run_local(steps, priority, done).attach(Some(&self.0));
    }

    fn turn(&mut self, done: &dyn Fn() -> bool, until: Instant) -> bool {
        let left = until.saturating_duration_since(Instant::now());
        let late = Rc::new(RefCell::new(false));
        let tells = Rc::clone(&late);
        let guard = glib::thread_guard::ThreadGuard::new(tells);
        let alarm = glib::timeout_source_new(left, None, glib::Priority::DEFAULT, move || {
            *guard.get_ref().borrow_mut() = true;
            glib::ControlFlow::Break
        });
        alarm.attach(Some(&self.0));
        while !done() && !*late.borrow() {
            self.0.iteration(true);
        }
        alarm.destroy();
        done()
    }
}

pub(crate) struct Tokio(tokio::runtime::Runtime, tokio::task::LocalSet);

impl Host for Tokio {
    type Id = tokio::task::JoinHandle<()>;

    fn warm_up() {
        drop(Self::new());
    }

    fn new() -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        Self(runtime, tokio::task::LocalSet::new())
    }

    fn watch(
        &mut self,
        channel: Arc<dyn Channel>,
        interest: Interest,
        callback: Callback,
    ) -> Self::Id {
        self.1.spawn_local(async move {
            qio_adapters::tokio::watch(channel, interest, callback).await.unwrap();
        })
    }

    fn remove(&mut self, id: Self::Id) {
        id.abort();
    }

    fn run<S: Steps + 'static>(&mut self, steps: S, done: Box<dyn FnOnce(S::Output)>) {
        self.1.spawn_local(async move {
            done(qio_adapters::tokio::run(steps).await.unwrap());
        });
    }

    fn turn(&mut self, done: &dyn Fn() -> bool, until: Instant) -> bool {
        let Self(runtime, tasks) = self;
        tasks.block_on(runtime, async {
            while !done() && Instant::now() < until {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        });
        done()
    }
}

/// async-io, with an executor that does no more than it has to.
pub(crate) struct AsyncIo {
    tasks: Vec<(u32, Task)>,
    next: u32,
}

type Task = Pin<Box<dyn Future<Output = ()>>>;

impl AsyncIo {
    fn add(&mut self, task: impl Future<Output = ()> + 'static) -> u32 {
        self.next += 1;
        self.tasks.push((self.next, Box::pin(task)));
        self.next
    }
}

impl Host for AsyncIo {
    type Id = u32;

    fn warm_up() {
        async_io::block_on(async_io::Timer::after(Duration::from_millis(1)));
    }

    fn new() -> Self {
        Self { tasks: Vec::new(), next: 0 }
    }

    fn watch(&mut self, channel: Arc<dyn Channel>, interest: Interest, callback: Callback) -> u32 {
        self.add(async move {
            qio_adapters::async_io::watch(channel, interest, callback).await.unwrap();
        })
    }

    fn remove(&mut self, id: u32) {
        self.tasks.retain(|(known, _)| *known != id);
    }

    fn run<S: Steps + 'static>(&mut self, steps: S, done: Box<dyn FnOnce(S::Output)>) {
        self.add(async move { done(qio_adapters::async_io::run(steps).await.unwrap()) });
    }

    fn turn(&mut self, done: &dyn Fn() -> bool, until: Instant) -> bool {
        let mut alarm = async_io::Timer::at(until);
        async_io::block_on(std::future::poll_fn(|cx| {
            let mut tasks = std::mem::take(&mut self.tasks);
            tasks.retain_mut(|(_, task)| task.as_mut().poll(cx).is_pending());
            tasks.append(&mut self.tasks);
            self.tasks = tasks;
            if done() || Pin::new(&mut alarm).poll(cx).is_ready() {
                Poll::Ready(done())
            } else {
                Poll::Pending
            }
        }))
    }
}
