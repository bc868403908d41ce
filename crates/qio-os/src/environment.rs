//! The variables that a program was started with.

use std::env;
use std::ffi::OsString;

/// Takes variables out of the environment: what is meant for this program alone is not inherited
/// by the programs that it starts.
///
/// # Safety
///
/// No other thread of the process may exist, because any could be reading the environment, in
/// getaddrinfo(3) say. A program's `main` can promise that before it starts one.
pub unsafe fn take_variables<const N: usize>(names: [&str; N]) -> [Option<OsString>; N] {
    names.map(|name| {
        let value = env::var_os(name);
        if value.is_some() {
            // SAFETY: the caller promises that there is no other thread that could read or write
            // the environment meanwhile.
            unsafe { env::remove_var(name) };
        }
        value
    })
}
