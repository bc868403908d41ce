//! `null:`

use std::sync::Arc;

use super::{Example, Scheme};
use crate::net::address::Form;
use crate::net::connect::Opening;
use crate::transport::Null;

pub(crate) const SCHEME: Scheme = Scheme {
    name: "null",
    syntax: "null:",
    summary: "reads as empty, swallows everything",
    examples: &[Example::new("null:", "accept and drop")],
    options: &[],
    form: Form::NOTHING,
    check: |_| Ok(()),
    connect: |_, _| Ok(Opening::Ready(Arc::new(Null::new()))),
    listen: None,
};
