//! Times, and what a peer says, in a form that people can read.

use std::time::{Duration, SystemTime};

use time::OffsetDateTime;

/// Some bytes of a peer as a text that is harmless on a terminal.
pub(super) fn excerpt(bytes: &[u8]) -> String {
    let mut text = String::new();
    for chunk in bytes.utf8_chunks() {
        text.push_str(&shown(chunk.valid()));
        for byte in chunk.invalid() {
            text.push_str(&format!("\\x{byte:02x}"));
        }
    }
    text
}

/// The same for a text: control characters, and those that turn the direction of writing, are
/// escaped.
pub(super) fn shown(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for char in text.chars() {
        match char {
            // Harmless, and common in names.
            '"' | '\'' | '\\' => out.push(char),
            char => out.extend(char.escape_debug()),
        }
    }
    out
}

/// A moment for people: `2026-11-22 13:05:00 UTC`.
pub(super) fn date(time: SystemTime) -> String {
    readable(&moment(time))
}

/// The same from the form for programs.
pub(super) fn readable(moment: &str) -> String {
    moment.replace('T', " ").replace('Z', " UTC")
}

/// A moment for programs, as RFC 3339 has it: `2026-11-22T13:05:00Z`.
pub(super) fn moment(time: SystemTime) -> String {
    let time = OffsetDateTime::from(time);
    let (hour, minute, second) = time.to_hms();
    format!("{}T{hour:02}:{minute:02}:{second:02}Z", time.date())
}

/// How many whole days there are from one moment to another.
pub(super) fn days_between(from: SystemTime, to: SystemTime) -> i64 {
    let days = |time: Duration| i64::try_from(time.as_secs() / (24 * 60 * 60)).unwrap_or(i64::MAX);
    match to.duration_since(from) {
        Ok(time) => days(time),
        // Begun days count: what has expired a minute ago is not valid for 0 days.
        Err(error) => -days(error.duration()) - 1,
    }
}

/// "1 day", "5 days", "less than a day".
pub(super) fn days(count: i64) -> String {
    match count {
        0 => "less than a day".to_owned(),
        1 => "1 day".to_owned(),
        count => format!("{count} days"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_are_counted_whole_and_the_past_is_negative() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(20_000 * 24 * 60 * 60);
        let hour = Duration::from_secs(60 * 60);
        for (hours, count) in [(0, 0), (23, 0), (24, 1), (49, 2)] {
            assert_eq!(days_between(now, now + hour * hours), count);
            if hours > 0 {
                assert_eq!(days_between(now, now - hour * hours), -count - 1);
            }
        }
        assert_eq!(moment(now), "2024-10-04T00:00:00Z");
        assert_eq!(date(now), "2024-10-04 00:00:00 UTC");
    }

    #[test]
    fn what_a_peer_sends_cannot_touch_the_terminal() {
        let text = excerpt(b"a\x1b]0;x\x07\r\n\xff \"q\" \xe2\x80\xae \xc2\x9b");
        assert_eq!(text, "a\\u{1b}]0;x\\u{7}\\r\\n\\xff \"q\" \\u{202e} \\u{9b}");
    }
}
