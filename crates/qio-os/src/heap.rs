//! What the allocator keeps.

/// Gives memory that was freed back to the system, where the allocator can be asked to.
///
/// Takes milliseconds when much was freed: for after a rush, not for every day.
pub fn trim_heap() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        // SAFETY: `malloc_trim` has no preconditions: it takes the allocator's own locks, and
        // gives back only pages without a live allocation.
        let _ = unsafe { libc::malloc_trim(0) };
    }
}
