//! The stack of a coroutine, and leaving it.

use std::cell::{Cell, RefCell};
use std::io;
use std::ptr::NonNull;
use std::rc::Rc;
use std::time::Instant;

use corosensei::stack::DefaultStack;
use corosensei::{CoroutineResult, Yielder};
use qio::watch::{PollSet, Waiter, waiter};

/// A body with a stack of its own, which is entered and left.
///
/// It stays on the thread that made it: what is on the stack may be tied to that.
pub(super) struct Context {
    /// `None` once the body has ended.
    stack: Option<corosensei::Coroutine<(), (), (), DefaultStack>>,
    door: Rc<Door>,
}

/// The way out of the stack, for whoever waits inside.
struct Door {
    /// Lives on the stack, from the first entry to the end of the body.
    yielder: Cell<Option<NonNull<Yielder<(), ()>>>>,
    request: RefCell<Request>,
    /// The stack is being unwound: nobody comes back to it.
    unwinds: Cell<bool>,
}

/// What the body waits for.
#[derive(Debug, Default)]
pub(super) struct Request {
    pub(super) set: PollSet,
    pub(super) until: Option<Instant>,
}

impl Context {
    /// A body that has not begun.
    ///
    /// # Errors
    ///
    /// What mmap(2) reports when there is no room for a stack.
    pub(super) fn new(stack_bytes: usize, body: impl FnOnce() + 'static) -> io::Result<Self> {
        let door = Rc::new(Door {
            yielder: Cell::new(None),
            request: RefCell::default(),
            unwinds: Cell::new(false),
        });
        let inside = Rc::clone(&door);
        let stack = DefaultStack::new(stack_bytes)?;
        let stack = corosensei::Coroutine::with_stack(stack, move |yielder, ()| {
            inside.yielder.set(Some(NonNull::from(yielder)));
            body();
        });
        Ok(Self { stack: Some(stack), door })
    }

    /// Enters, and comes back when the body waits (`true`) or has ended.
    ///
    /// A panic of the body goes on here.
    pub(super) fn enter(&mut self) -> bool {
        let Some(stack) = &mut self.stack else { return false };
        let waits = Rc::clone(&self.door) as Rc<dyn Waiter>;
        let result = waiter::scoped(waits, || stack.resume(()));
        match result {
            CoroutineResult::Yield(()) => true,
            CoroutineResult::Return(()) => {
                self.stack = None;
                false
            }
        }
    }

    /// What the body waits for, while it does.
    pub(super) fn with_request<R>(&self, look: impl FnOnce(&mut Request) -> R) -> R {
        look(&mut self.door.request.borrow_mut())
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        self.door.unwinds.set(true);
        if let Some(stack) = self.stack.take() {
            // What is on the stack is dropped in the reverse order, and does not wait any more.
            let waits = Rc::clone(&self.door) as Rc<dyn Waiter>;
            waiter::scoped(waits, || drop(stack));
        }
    }
}

impl Waiter for Door {
    fn park(&self, set: &mut PollSet, until: Option<Instant>) -> io::Result<()> {
        if self.unwinds.get() {
            return Err(io::Error::other("the coroutine is cancelled"));
        }
        let yielder = self.yielder.get().expect("the body runs, else nobody waits through it");
        *self.request.borrow_mut() = Request { set: std::mem::take(set), until };
        // SAFETY: corosensei gives the yielder to the body by reference, from its own frame at the
        // bottom of the coroutine's stack; it lives until the body has ended. This is called by the
        // body only: the door is the thread's waiter while `enter` runs the body, and nobody
        // else can get at it (a scope hands its waiter out to no one); a coroutine that is entered
        // inside of the body has a door of its own. `Rc` and the raw pointer keep it on this thread.
        let yielder = unsafe { yielder.as_ref() };
        yielder.suspend(());
        *set = std::mem::take(&mut self.request.borrow_mut().set);
        Ok(())
    }
}
