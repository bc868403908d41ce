//! A `GSource` whose functions are those of a Rust object.

use std::ffi::CString;
use std::mem::size_of;
use std::ops::ControlFlow;
use std::os::fd::AsRawFd;
use std::ptr::NonNull;

use glib::translate::{IntoGlib, from_glib_full};
use glib::{IOCondition, Priority, Source};
use glib_sys::{GFALSE, GSource, GSourceFunc, GSourceFuncs, GTRUE, gboolean, gpointer};
use qio::watch::SharedFd;

/// What GLib asks a source.
pub(super) trait Dispatch {
    /// Whether something is to be done before anything is polled. Else the source has descriptors
    /// or a time to wait for.
    fn prepare(&mut self, polls: &mut Polls<'_>) -> bool;

    /// Whether a descriptor has fired.
    fn check(&mut self, polls: &mut Polls<'_>) -> bool;

    /// Does it; `Break` removes the source.
    fn dispatch(&mut self) -> ControlFlow<()>;
}

/// What a source has GLib wait for, while GLib asks it.
pub(super) struct Polls<'a> {
    source: NonNull<GSource>,
    fds: &'a mut Vec<Polled>,
}

/// A descriptor that GLib polls; its owner keeps the number what it is.
struct Polled {
    fd: SharedFd,
    on: IOCondition,
    tag: gpointer,
}

impl Polls<'_> {
    /// Has GLib poll these descriptors, and no others.
    pub(super) fn set_fds<'f>(&mut self, fds: impl Iterator<Item = (&'f SharedFd, IOCondition)>) {
        let mut count = 0;
        for (fd, on) in fds {
            let is_same = |polled: &Polled| SharedFd::ptr_eq(&polled.fd, fd) && polled.on == on;
            if !self.fds.get(count).is_some_and(is_same) {
                self.truncate(count);
                let number = fd.as_raw_fd();
                // SAFETY: The source is alive, GLib calls it with a reference; this is the thread of
                // its context. The number names an open descriptor as long as the share that is
                // kept beside the tag, which is removed with it.
                let tag = unsafe {
                    glib_sys::g_source_add_unix_fd(self.source.as_ptr(), number, on.into_glib())
                };
                self.fds.push(Polled { fd: SharedFd::clone(fd), on, tag });
            }
            count += 1;
        }
        self.truncate(count);
    }

    fn truncate(&mut self, count: usize) {
        for polled in self.fds.drain(count.min(self.fds.len())..) {
            // SAFETY: As above; the tag is one that this source gave, and is forgotten here.
            unsafe { glib_sys::g_source_remove_unix_fd(self.source.as_ptr(), polled.tag) };
        }
    }

    /// What fired of each descriptor, in their order.
    pub(super) fn fired(&self) -> impl Iterator<Item = IOCondition> {
        self.fds.iter().map(|polled| {
            // SAFETY: As above; the tag is one that this source gave and has not been removed.
            let fired =
                unsafe { glib_sys::g_source_query_unix_fd(self.source.as_ptr(), polled.tag) };
            IOCondition::from_bits_truncate(fired)
        })
    }

    /// Has GLib wake the source at this time (`g_get_monotonic_time`, microseconds), or at none.
    pub(super) fn set_ready_time(&mut self, time: Option<i64>) {
        // SAFETY: The source is alive; the function may be called from any thread.
        unsafe { glib_sys::g_source_set_ready_time(self.source.as_ptr(), time.unwrap_or(-1)) };
    }
}

/// What GLib allocates for a source: its own part first.
#[repr(C)]
struct Native {
    source: GSource,
    inside: *mut Inside,
}

struct Inside {
    dispatch: Box<dyn Dispatch>,
    fds: Vec<Polled>,
    /// GLib takes the table by a pointer that is not const, and does not change it.
    _functions: Box<GSourceFuncs>,
}

/// A source that asks `dispatch`, in the thread of the context that it will be attached to.
pub(super) fn new(dispatch: Box<dyn Dispatch + Send>, name: &str, priority: Priority) -> Source {
    let mut functions = Box::new(GSourceFuncs {
        prepare: Some(prepare),
        check: Some(check),
        dispatch: Some(run),
        finalize: Some(finalize),
        closure_callback: None,
        closure_marshal: None,
    });
    let size = u32::try_from(size_of::<Native>()).expect("a handful of words");
    // SAFETY: The table lives as long as the source: `finalize` drops it. The size is that of a
    // structure which begins with a GSource.
    let source = unsafe { glib_sys::g_source_new(&raw mut *functions, size) };
    let native: *mut Native = source.cast();
    let inside = Inside { dispatch, fds: Vec::new(), _functions: functions };
    let inside = Box::into_raw(Box::new(inside));
    // SAFETY: GLib has just allocated a `Native`, filled with zeros and aligned as malloc(3) does,
    // which nobody else knows.
    unsafe { (*native).inside = inside };
    // A name with a NUL byte ends there.
    let name = CString::new(name.split('\0').next().unwrap_or_default()).unwrap_or_default();
    // SAFETY: The source is alive, and the name is copied.
    unsafe { glib_sys::g_source_set_name(source, name.as_ptr()) };
    // SAFETY: The source is alive and not attached.
    unsafe { glib_sys::g_source_set_priority(source, priority.into_glib()) };
    // SAFETY: The one reference that g_source_new made is handed over.
    unsafe { from_glib_full(source) }
}

/// Calls `ask` with what is inside of a source.
///
/// # Safety
///
/// `source` is one that [`new`] made, and GLib calls one of its functions: with a reference, in the
/// thread of its context, and not while another of them runs (a source that cannot recurse, the
/// default, is blocked while it is dispatched).
unsafe fn with_inside<R>(
    source: *mut GSource,
    ask: impl FnOnce(&mut dyn Dispatch, Polls<'_>) -> R,
) -> R {
    let native: *mut Native = source.cast();
    // SAFETY: The source was made by `new`, as a `Native` with its inside written.
    let inside = unsafe { (*native).inside };
    // SAFETY: It was made by `Box::into_raw` and is not dropped before `finalize`; by the caller's
    // word nobody else has a reference to it now.
    let Inside { dispatch, fds, .. } = unsafe { &mut *inside };
    let source = NonNull::new(source).expect("GLib calls a source with itself");
    ask(&mut **dispatch, Polls { source, fds })
}

unsafe extern "C" fn prepare(source: *mut GSource, timeout: *mut i32) -> gboolean {
    // SAFETY: GLib calls this as `with_inside` asks for.
    let ready = unsafe { with_inside(source, |dispatch, mut polls| dispatch.prepare(&mut polls)) };
    if !timeout.is_null() {
        // SAFETY: GLib gives a place for the answer.
        unsafe { *timeout = -1 };
    }
    if ready { GTRUE } else { GFALSE }
}

unsafe extern "C" fn check(source: *mut GSource) -> gboolean {
    // SAFETY: GLib calls this as `with_inside` asks for.
    let fired = unsafe { with_inside(source, |dispatch, mut polls| dispatch.check(&mut polls)) };
    if fired { GTRUE } else { GFALSE }
}

unsafe extern "C" fn run(source: *mut GSource, _: GSourceFunc, _: gpointer) -> gboolean {
    // SAFETY: GLib calls this as `with_inside` asks for.
    let next = unsafe { with_inside(source, |dispatch, _| dispatch.dispatch()) };
    if next.is_continue() { GTRUE } else { GFALSE }
}

unsafe extern "C" fn finalize(source: *mut GSource) {
    let native: *mut Native = source.cast();
    // SAFETY: The source was made by `new`, as a `Native` with its inside written.
    let inside = unsafe { (*native).inside };
    // SAFETY: It was made by `Box::into_raw`. GLib calls this once, for the last reference: nobody
    // comes back to it. The polled descriptors were taken out of the context before, when the
    // source was destroyed.
    drop(unsafe { Box::from_raw(inside) });
}
