//! `echo:`

use std::sync::Arc;

use super::{Example, Scheme};
use crate::net::address::Form;
use crate::net::connect::Opening;
use crate::transport::Duplex;

pub(crate) const SCHEME: Scheme = Scheme {
    name: "echo",
    syntax: "echo:",
    summary: "gives back everything that is written to it",
    examples: &[Example::new("echo:", "answer with the question")],
    options: &[],
    form: Form::NOTHING,
    check: |_| Ok(()),
    connect: |_, _| Ok(Opening::Ready(Arc::new(Duplex::echo()))),
    listen: None,
};
