//! `pty:program arguments`

use std::sync::Arc;

use super::{Example, OptionInfo, Scheme, exec};
use crate::error::Result;
use crate::net::address::{Address, Form, Refusal, Value};
use crate::net::connect::{Opening, Request};
use crate::transport::{PtyOptions, WindowSize};

pub(crate) const SCHEME: Scheme = Scheme {
    name: "pty",
    syntax: "pty:PROGRAM ARGUMENTS",
    summary: "a program on a terminal of its own; quotes as in a shell, but none is run",
    examples: &[
        Example::new("pty:bash", "a shell that believes that somebody sits in front of it"),
        Example::new("pty:top -b?cols=132&rows=43", "on a wider terminal"),
        Example::new("pty:cat?raw", "every byte goes through as it is"),
    ],
    options: &[
        OptionInfo::new("cols", SIZE, "the width of the terminal, in characters").default("80"),
        OptionInfo::new("rows", SIZE, "the height of the terminal, in characters").default("24"),
        OptionInfo::new("term", Value::Text("NAME"), "the kind of terminal, as TERM tells it"),
        OptionInfo::new(
            "raw",
            Value::Switch,
            "every byte goes through as it is: no lines, echo, signals, or end of input",
        ),
        OptionInfo::new("echo", Value::Switch, "what is written is read back, too").default("on"),
        exec::DIR,
        exec::ENV,
        exec::CLEAR_ENV,
        exec::LINGER,
        exec::GRACE,
    ],
    form: Form::SHELL_WORDS,
    check,
    connect,
    listen: None,
};

const SIZE: Value = Value::Count { from: 1, to: u16::MAX as u64 };

fn check(address: &Address) -> std::result::Result<(), Refusal> {
    if address.switch("raw") && address.is_given("echo") && address.switch("echo") {
        return Err(Refusal::new("\"echo\" contradicts \"raw\""));
    }
    exec::check(address)
}

fn connect(address: &Address, _request: &Request<'_>) -> Result<Opening> {
    let mut command = exec::command(address);
    if let Some(term) = address.values("term").last() {
        command = command.env("TERM", term);
    }
    let defaults = PtyOptions::default();
    let characters = |key, default| {
        address.count(key).and_then(|count| u16::try_from(count).ok()).unwrap_or(default)
    };
    let size = WindowSize::new(
        characters("cols", defaults.size.columns),
        characters("rows", defaults.size.rows),
    );
    let options = defaults.size(size).raw(address.switch("raw")).echo(address.switch("echo"));
    Ok(Opening::Ready(Arc::new(command.pty(options).spawn()?)))
}
