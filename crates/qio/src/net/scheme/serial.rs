//! `serial:path`

use std::sync::Arc;

use super::{Example, OptionInfo, Scheme, check_path, path};
use crate::error::Result;
use crate::net::address::{Address, Form, Value};
use crate::net::connect::{Opening, Request};
use crate::transport::{FlowControl, Parity, Serial, SerialOptions};

pub(crate) const SCHEME: Scheme = Scheme {
    name: "serial",
    syntax: "serial:PATH",
    summary: "a serial line, for us alone; its settings are given back at the end",
    examples: &[
        Example::new("serial:/dev/ttyUSB0", "115200 baud, 8 data bits, no parity, 1 stop bit"),
        Example::new("serial:/dev/ttyS0?baud=9600&parity=even&data=7", "as old devices want it"),
        Example::new("serial:/dev/ttyACM0?dtr=off&hangup=off", "without resetting a board"),
    ],
    options: &[
        OptionInfo::new(
            "baud",
            Value::Count { from: 1, to: 100_000_000 },
            "bits a second, any rate",
        )
        .default("115200"),
        OptionInfo::new("data", Value::Count { from: 5, to: 8 }, "bits of a byte").default("8"),
        OptionInfo::new("parity", Value::Choice(&["none", "odd", "even"]), "the parity bit")
            .default("none"),
        OptionInfo::new("stop", Value::Count { from: 1, to: 2 }, "stop bits").default("1"),
        OptionInfo::new(
            "flow",
            Value::Choice(&["none", "hardware", "software"]),
            "flow control: by RTS and CTS, or by XON and XOFF",
        )
        .default("none"),
        OptionInfo::new("exclusive", Value::Switch, "keep others from opening it").default("on"),
        OptionInfo::new("hangup", Value::Switch, "lower DTR when it is closed for the last time"),
        OptionInfo::new("dtr", Value::Switch, "raise or lower DTR"),
        OptionInfo::new("rts", Value::Switch, "raise or lower RTS"),
    ],
    form: Form::WORD,
    check: check_path,
    connect,
    listen: None,
};

fn connect(address: &Address, _request: &Request<'_>) -> Result<Opening> {
    Ok(Opening::Ready(Arc::new(Serial::open(path(address), &options(address))?)))
}

fn options(address: &Address) -> SerialOptions {
    let mut options = SerialOptions::new();
    let bits = |key| address.count(key).and_then(|bits| u8::try_from(bits).ok());
    options.baud = address.count("baud").unwrap_or(options.baud);
    options.data_bits = bits("data").unwrap_or(options.data_bits);
    options.stop_bits = bits("stop").unwrap_or(options.stop_bits);
    options.parity = match address.text("parity").as_deref() {
        Some("odd") => Parity::Odd,
        Some("even") => Parity::Even,
        _ => Parity::None,
    };
    options.flow = match address.text("flow").as_deref() {
        Some("hardware") => FlowControl::Hardware,
        Some("software") => FlowControl::Software,
        _ => FlowControl::None,
    };
    options.exclusive = address.switch("exclusive");
    let asked = |key| address.is_given(key).then(|| address.switch(key));
    options.hangup = asked("hangup");
    options.dtr = asked("dtr");
    options.rts = asked("rts");
    options
}
