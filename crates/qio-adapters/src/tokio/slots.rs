//! Who is to be woken.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Wake, Waker};

use qio::{Direction, Interest};

/// The reader and the writer of a channel: a place for the waker of each.
///
/// The reactor has one place per direction of a descriptor, but both halves may wait for the same
/// one: a TLS reader that owes an answer waits for room, as the writer does. What is stored with
/// the reactor wakes every half that wants the direction.
#[derive(Debug)]
pub(super) struct Slots {
    readable: Waker,
    writable: Waker,
    any: Waker,
    slots: Arc<[Slot; 2]>,
}

impl Slots {
    pub(super) fn new() -> Self {
        let slots = Arc::new([Slot::default(), Slot::default()]);
        let waker = |fired| Waker::from(Arc::new(Fired { slots: Arc::clone(&slots), fired }));
        Self {
            readable: waker(Interest::READ),
            writable: waker(Interest::WRITE),
            any: waker(Interest::all()),
            slots,
        }
    }

    /// The place of one half.
    pub(super) fn of(&self, half: Direction) -> &Slot {
        &self.slots[half as usize]
    }

    /// What the reactor stores for `direction` of any descriptor.
    pub(super) fn context(&self, direction: Direction) -> Context<'_> {
        Context::from_waker(match direction {
            Direction::Read => &self.readable,
            Direction::Write => &self.writable,
        })
    }

    /// What wakes every half that wants anything.
    pub(super) fn any(&self) -> Context<'_> {
        Context::from_waker(&self.any)
    }
}

/// One half that waits, or does not.
#[derive(Debug)]
pub(super) struct Slot(Mutex<Waiting>);

#[derive(Debug)]
struct Waiting {
    waker: Option<Waker>,
    wants: Interest,
    fired: bool,
}

impl Default for Slot {
    fn default() -> Self {
        Self(Mutex::new(Waiting { waker: None, wants: Interest::empty(), fired: false }))
    }
}

impl Slot {
    /// Starts to wait. To be called before what is waited for is looked at, so that nothing that
    /// fires in between is lost.
    pub(super) fn start(&self, wants: Interest, cx: &Context<'_>) {
        let mut waiting = self.lock();
        waiting.set_waker(cx);
        waiting.wants = wants;
        waiting.fired = false;
    }

    /// Says what is waited for, now that it is known.
    pub(super) fn narrow(&self, wants: Interest) {
        self.lock().wants = wants;
    }

    /// Goes on waiting with the waker of `cx`; says whether something fired.
    pub(super) fn go_on(&self, cx: &Context<'_>) -> bool {
        let mut waiting = self.lock();
        waiting.set_waker(cx);
        waiting.fired
    }

    /// Ends the wait.
    pub(super) fn stop(&self) {
        let mut waiting = self.lock();
        waiting.waker = None;
        waiting.wants = Interest::empty();
    }

    /// Wakes the half if it waits, for whatever.
    pub(super) fn nudge(&self) {
        self.wake_if(|_| true);
    }

    fn wake(&self, fired: Interest) {
        self.wake_if(|waiting| waiting.wants.intersects(fired));
    }

    fn wake_if(&self, concerns: impl FnOnce(&Waiting) -> bool) {
        let mut waiting = self.lock();
        if !concerns(&waiting) {
            return;
        }
        waiting.fired = true;
        // Left there: who waits on a registration alone goes on without a look here.
        let waker = waiting.waker.clone();
        drop(waiting);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiting {
    fn set_waker(&mut self, cx: &Context<'_>) {
        match &mut self.waker {
            Some(waker) => waker.clone_from(cx.waker()),
            None => self.waker = Some(cx.waker().clone()),
        }
    }
}

/// Wakes the halves that want what fired.
#[derive(Debug)]
struct Fired {
    slots: Arc<[Slot; 2]>,
    fired: Interest,
}

impl Wake for Fired {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        for slot in &*self.slots {
            slot.wake(self.fired);
        }
    }
}
