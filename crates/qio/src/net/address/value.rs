//! What the value of an option may be.

use std::error::Error as StdError;
use std::fmt;
use std::num::NonZero;
use std::time::Duration;

/// The kind of value that an option takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Value {
    /// `on`, `true`, `yes` or nothing at all; `off`, `false`, `no`.
    Switch,
    /// A time, as [`parse_duration`] reads it.
    Duration,
    /// A whole number in a range.
    Count {
        /// The smallest.
        from: u64,
        /// The largest.
        to: u64,
    },
    /// A whole number, or `forever`.
    CountOrForever,
    /// A number of bytes, as [`parse_size`] reads it.
    Size,
    /// A number of bytes a second, as [`parse_rate`] reads it.
    Rate,
    /// Permission bits in octal.
    FileMode,
    /// A [`Switch`](Value::Switch), or permission bits in octal that mean "on, and so".
    SwitchOrMode,
    /// One of these words.
    Choice(&'static [&'static str]),
    /// Any text; this is how help calls it.
    Text(&'static str),
}

/// A text that is no value of the kind that was asked for; says which kind that is.
#[derive(Debug)]
pub struct BadValue {
    text: String,
    wanted: String,
}

impl Value {
    /// How help writes the value: `on|off`, `DURATION`, `1-127`.
    pub fn syntax(&self) -> String {
        match self {
            Self::Switch => "on|off".to_owned(),
            Self::Duration => "DURATION".to_owned(),
            Self::Count { from, to } => format!("{from}-{to}"),
            Self::CountOrForever => "N|forever".to_owned(),
            Self::Size => "SIZE".to_owned(),
            Self::Rate => "RATE".to_owned(),
            Self::FileMode => "MODE".to_owned(),
            Self::SwitchOrMode => "on|off|MODE".to_owned(),
            Self::Choice(words) => words.join("|"),
            Self::Text(name) => (*name).to_owned(),
        }
    }

    /// Whether the key alone, without `=value`, means `on`.
    pub fn may_be_bare(&self) -> bool {
        matches!(self, Self::Switch | Self::SwitchOrMode)
    }

    pub(crate) fn check(&self, value: &[u8]) -> Result<(), BadValue> {
        let text = match std::str::from_utf8(value) {
            Ok(text) => text,
            Err(_) if matches!(self, Self::Text(_)) => return no_nul(value),
            Err(_) => return Err(BadValue::new(&String::from_utf8_lossy(value), self.syntax())),
        };
        match self {
            Self::Switch => parse_switch(text).map(drop),
            Self::Duration => parse_duration(text).map(drop),
            Self::Count { from, to } => match parse_count(text) {
                Some(n) if (*from..=*to).contains(&n) => Ok(()),
                _ => Err(BadValue::new(text, format!("a number from {from} to {to}"))),
            },
            Self::CountOrForever => match parse_count(text).map(u32::try_from) {
                Some(Ok(_)) => Ok(()),
                _ if text == "forever" => Ok(()),
                _ => Err(BadValue::new(text, "a number or forever".to_owned())),
            },
            Self::Size => parse_size(text).map(drop),
            Self::Rate => parse_rate(text).map(drop),
            Self::FileMode => parse_mode(text).map(drop),
            Self::SwitchOrMode => match parse_switch(text) {
                Ok(_) => Ok(()),
                Err(_) => parse_mode(text).map(drop),
            },
            Self::Choice(words) if words.contains(&text) => Ok(()),
            Self::Choice(words) => Err(BadValue::new(text, words.join(" or "))),
            Self::Text(_) => no_nul(value),
        }
    }
}

/// Reads a time: a number with one of the units `us`, `ms`, `s`, `m` (minutes), `h`, or a plain
/// number of seconds; with decimals where wanted (`1.5s`).
///
/// At most a billion seconds, some 31 years.
///
/// ```
/// use std::time::Duration;
/// use qio::net::parse_duration;
///
/// # fn main() -> Result<(), qio::net::BadValue> {
/// assert_eq!(parse_duration("500ms")?, Duration::from_millis(500));
/// assert_eq!(parse_duration("2")?, Duration::from_secs(2));
/// assert!(parse_duration("2 weeks").is_err());
/// # Ok(())
/// # }
/// ```
///
/// # Errors
///
/// Says what a time looks like.
pub fn parse_duration(text: &str) -> Result<Duration, BadValue> {
    let bad = || BadValue::new(text, "a time like 500ms, 2s or 1m".to_owned());
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let nanoseconds_each = match unit {
        "us" => 1e3,
        "ms" => 1e6,
        "" | "s" => 1e9,
        "m" | "min" => 60e9,
        "h" => 3600e9,
        _ => return Err(bad()),
    };
    let well_formed = number.starts_with(|c: char| c.is_ascii_digit()) && !number.ends_with('.');
    let number: f64 = number.parse().ok().filter(|_| well_formed).ok_or_else(bad)?;
    let nanoseconds = number * nanoseconds_each;
    // The largest time stays far below where adding it to a clock overflows.
    if nanoseconds > 1e18 {
        return Err(BadValue::new(text, "a time of at most 1000000000 seconds".to_owned()));
    }
    Ok(Duration::from_nanos(nanoseconds.round() as u64))
}

/// Reads a number of bytes: a whole number, with `k`, `M` or `G` behind it for the powers of 1024.
///
/// From 1 byte to 1 GiB: what the kernel can count in a socket option, which is what sizes are
/// for, with room for its doubling.
///
/// ```
/// use qio::net::parse_size;
///
/// # fn main() -> Result<(), qio::net::BadValue> {
/// assert_eq!(parse_size("4096")?, 4096);
/// assert_eq!(parse_size("256k")?, 256 << 10);
/// assert!(parse_size("2G").is_err());
/// # Ok(())
/// # }
/// ```
///
/// # Errors
///
/// Says what a size looks like.
pub fn parse_size(text: &str) -> Result<usize, BadValue> {
    let bad = |wanted: &str| BadValue::new(text, wanted.to_owned());
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let bytes_each = match unit {
        "" => 1,
        "k" | "K" => 1 << 10,
        "m" | "M" => 1 << 20,
        "g" | "G" => 1 << 30,
        _ => return Err(bad("a size like 4096, 256k or 1M")),
    };
    if number.is_empty() {
        return Err(bad("a size like 4096, 256k or 1M"));
    }
    let bytes = number.parse::<usize>().ok().and_then(|number| number.checked_mul(bytes_each));
    bytes.filter(|bytes| (1..=1 << 30).contains(bytes)).ok_or_else(|| bad("a size from 1 to 1G"))
}

/// Reads a number of bytes a second: a whole number, with `k`, `M` or `G` behind it for the powers
/// of 1000, as rates of networks have them, or `Ki`, `Mi` or `Gi` for those of 1024.
///
/// From 1 byte to a terabyte a second, which is more than any channel moves.
///
/// ```
/// use qio::net::parse_rate;
///
/// # fn main() -> Result<(), qio::net::BadValue> {
/// assert_eq!(parse_rate("9600")?.get(), 9600);
/// assert_eq!(parse_rate("2M")?.get(), 2_000_000);
/// assert_eq!(parse_rate("64Ki")?.get(), 65_536);
/// assert!(parse_rate("0").is_err());
/// # Ok(())
/// # }
/// ```
///
/// # Errors
///
/// Says what a rate looks like.
pub fn parse_rate(text: &str) -> Result<NonZero<u64>, BadValue> {
    let bad = |wanted: &str| BadValue::new(text, wanted.to_owned());
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let bytes_each = match unit {
        "" => 1,
        "k" | "K" => 1_000,
        "M" => 1_000_000,
        "G" => 1_000_000_000,
        "Ki" => 1 << 10,
        "Mi" => 1 << 20,
        "Gi" => 1 << 30,
        _ => return Err(bad("a rate in bytes a second like 500k, 2M or 64Ki")),
    };
    if number.is_empty() {
        return Err(bad("a rate in bytes a second like 500k, 2M or 64Ki"));
    }
    let rate = number.parse::<u64>().ok().and_then(|number| number.checked_mul(bytes_each));
    rate.filter(|&rate| rate <= 1_000_000_000_000)
        .and_then(NonZero::new)
        .ok_or_else(|| bad("a rate from 1 to 1000G bytes a second"))
}

pub(crate) fn parse_switch(text: &str) -> Result<bool, BadValue> {
    match text {
        "on" | "true" | "yes" => Ok(true),
        "off" | "false" | "no" => Ok(false),
        _ => Err(BadValue::new(text, "on or off".to_owned())),
    }
}

pub(crate) fn parse_mode(text: &str) -> Result<u32, BadValue> {
    let octal = !text.is_empty() && text.bytes().all(|byte| (b'0'..=b'7').contains(&byte));
    u32::from_str_radix(text, 8)
        .ok()
        .filter(|&mode| octal && mode <= 0o7777)
        .ok_or_else(|| BadValue::new(text, "an octal mode like 660".to_owned()))
}

/// A number without sign, blanks or other decoration.
pub(crate) fn parse_count(text: &str) -> Option<u64> {
    if text.bytes().all(|byte| byte.is_ascii_digit()) { text.parse().ok() } else { None }
}

fn no_nul(value: &[u8]) -> Result<(), BadValue> {
    if value.contains(&0) {
        return Err(BadValue::new(
            &String::from_utf8_lossy(value),
            "a text without NUL bytes".to_owned(),
        ));
    }
    Ok(())
}

impl BadValue {
    fn new(text: &str, wanted: String) -> Self {
        Self { text: text.to_owned(), wanted }
    }
}

impl fmt::Display for BadValue {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{:?} is not {}", self.text, self.wanted)
    }
}

impl StdError for BadValue {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_units_or_are_seconds() {
        for (text, milliseconds) in
            [("500ms", 500), ("2s", 2_000), ("2", 2_000), ("0.25", 250), ("1m", 60_000), ("0", 0)]
        {
            assert_eq!(
                parse_duration(text).unwrap(),
                Duration::from_millis(milliseconds),
                "{text}"
            );
        }
        for text in ["", "s", "-1", "1.", ".5", "1..5", "2x", "1e3", "99999999999", "١"] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn sizes_have_units_of_1024() {
        for (text, bytes) in [("1", 1), ("0064k", 65_536), ("3M", 3 << 20), ("1g", 1 << 30)] {
            assert_eq!(parse_size(text).unwrap(), bytes, "{text}");
        }
        for text in ["", "k", "0", "0k", "-1", "1.5M", "1kB", " 1", "2G", "99999999999999999999"] {
            assert!(parse_size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn rates_have_units_of_1000_and_of_1024() {
        for (text, rate) in [("1", 1), ("007", 7), ("500k", 500_000), ("3Mi", 3 << 20)] {
            assert_eq!(parse_rate(text).unwrap().get(), rate, "{text}");
        }
        for text in ["", "k", "0", "0M", "-1", "1.5M", "1kB", "1m", "1M/s", "1001G", "99999999999G"]
        {
            assert!(parse_rate(text).is_err(), "{text}");
        }
    }

    #[test]
    fn numbers_have_no_decoration() {
        assert_eq!(parse_count("17"), Some(17));
        for text in ["", "+17", " 17", "17a", "99999999999999999999999"] {
            assert_eq!(parse_count(text), None, "{text}");
        }
        assert_eq!(parse_mode("0640").unwrap(), 0o640);
        for text in ["", "8", "+7", "17777"] {
            assert!(parse_mode(text).is_err(), "{text}");
        }
    }
}
