//! `exec:program arguments`

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

use super::{Example, OptionInfo, Scheme};
use crate::error::Result;
use crate::net::address::{Address, Form, Refusal, Value};
use crate::net::connect::{Opening, Request};
use crate::transport::{Command, Stderr};

pub(crate) const SCHEME: Scheme = Scheme {
    name: "exec",
    syntax: "exec:PROGRAM ARGUMENTS",
    summary: "a program's standard input and output; quotes as in a shell, but none is run",
    examples: &[
        Example::new("exec:sort -u", "write to a program and read its answer"),
        Example::new("exec:grep \"a?b\"", "quotes protect blanks and question marks"),
        Example::new("exec:make?dir=/src&env=LANG=C", "in another folder, with a variable set"),
    ],
    options: &[
        DIR,
        ENV,
        CLEAR_ENV,
        OptionInfo::new(
            "stderr",
            Value::Choice(&["inherit", "null", "merge"]),
            "what becomes of its standard error",
        )
        .default("inherit"),
        LINGER,
        GRACE,
    ],
    form: Form::SHELL_WORDS,
    check,
    connect,
    listen: None,
};

pub(super) const DIR: OptionInfo =
    OptionInfo::new("dir", Value::Text("PATH"), "the folder that it is started in");
pub(super) const ENV: OptionInfo =
    OptionInfo::new("env", Value::Text("NAME=VALUE"), "a variable of its environment").repeatable();
pub(super) const CLEAR_ENV: OptionInfo =
    OptionInfo::new("clear-env", Value::Switch, "start without the variables of qio");
pub(super) const LINGER: OptionInfo =
    OptionInfo::new("linger", Value::Duration, "time to end by itself once its channel is gone")
        .default("10s");
pub(super) const GRACE: OptionInfo =
    OptionInfo::new("grace", Value::Duration, "time between SIGTERM and SIGKILL").default("5s");

/// The program, its arguments and its environment.
pub(super) fn check(address: &Address) -> std::result::Result<(), Refusal> {
    match address.target() {
        [program, ..] if !program.is_empty() => {}
        _ => return Err(Refusal::new("there is no program to start").hint(address.scheme().syntax)),
    }
    if address.target().iter().any(|word| word.contains(&0)) {
        return Err(Refusal::new("a word of the command contains a NUL byte"));
    }
    for variable in address.values("env") {
        let text = variable.to_string_lossy();
        if text.split_once('=').is_none_or(|(name, _)| name.is_empty()) {
            return Err(Refusal::new(format!("option \"env\": {text:?} is not NAME=VALUE")));
        }
    }
    Ok(())
}

fn connect(address: &Address, _request: &Request<'_>) -> Result<Opening> {
    let command = command(address).stderr(match address.text("stderr").as_deref() {
        Some("null") => Stderr::Null,
        Some("merge") => Stderr::Merge,
        _ => Stderr::Inherit,
    });
    Ok(Opening::Ready(Arc::new(command.spawn()?)))
}

/// What [`check`] has seen, as a command.
pub(super) fn command(address: &Address) -> Command {
    let mut words = address.target().iter().map(|word| OsStr::from_bytes(word));
    let program = words.next().unwrap_or_default();
    let mut command = Command::new(program).args(words);
    if address.switch("clear-env") {
        command = command.env_clear();
    }
    for variable in address.values("env") {
        let bytes = variable.as_bytes();
        let equals = bytes.iter().position(|&byte| byte == b'=').unwrap_or(bytes.len());
        let (name, value) = bytes.split_at(equals);
        let value = value.strip_prefix(b"=").unwrap_or_default();
        command = command.env(OsStr::from_bytes(name), OsStr::from_bytes(value));
    }
    if let Some(dir) = address.values("dir").last() {
        command = command.current_dir(dir);
    }
    if let Some(linger) = address.duration("linger") {
        command = command.linger(linger);
    }
    if let Some(grace) = address.duration("grace") {
        command = command.grace(grace);
    }
    command
}
