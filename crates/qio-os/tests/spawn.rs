//! What a child inherits.

use std::process::Command;

use qio_os::{Capability, close_other_fds_on_exec, start_session_on_stdin};

#[test]
fn both_ways_of_closing_leave_a_child_its_three_streams() {
    let file = std::fs::File::open("/proc/self/exe").unwrap();
    // Without CLOEXEC.
    let careless = rustix::io::dup(&file).unwrap();
    let list = |closing: bool| {
        let mut command = Command::new("ls");
        command.arg("/proc/self/fd");
        if closing {
            close_other_fds_on_exec(&mut command);
        }
        let output = command.output().unwrap();
        assert!(output.status.success());
        String::from_utf8(output.stdout).unwrap().lines().count()
    };
    // The fourth is the directory that ls(1) reads.
    assert!(list(false) > 4, "there is something to close");
    assert_eq!(list(true), 4);
    Capability::CloseRangeCloexec.refuse();
    assert_eq!(list(true), 4);
    assert!(!Capability::CloseRangeCloexec.may_try(), "the fallback was what ran");
    Capability::CloseRangeCloexec.reset();
    assert!(rustix::io::fcntl_getfd(&careless).unwrap().is_empty(), "ours is not touched");
}

#[test]
fn a_session_needs_a_terminal_as_standard_input() {
    let mut command = Command::new("true");
    start_session_on_stdin(command.stdin(std::process::Stdio::null()));
    let error = command.spawn().unwrap_err();
    assert_eq!(rustix::io::Errno::from_io_error(&error), Some(rustix::io::Errno::NOTTY));
}
