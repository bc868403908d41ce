//! What a request makes depend on the version of a file, and which part of it is asked for:
//! RFC 9110, sections 13 and 14.

use std::time::{Duration, SystemTime};

/// The fields that decide between a whole file, a part of it, and none.
#[derive(Debug, Default)]
pub(super) struct Conditions {
    pub(super) if_match: Option<String>,
    pub(super) if_none_match: Option<String>,
    pub(super) if_modified_since: Option<String>,
    pub(super) if_unmodified_since: Option<String>,
    pub(super) if_range: Option<String>,
    pub(super) range: Option<String>,
}

/// How a version of a file is told from others.
#[derive(Clone, Debug)]
pub(super) struct Version {
    /// In quotes, without the mark of a weak one.
    tag: String,
    /// It may change again without being told apart.
    is_weak: bool,
    /// In whole seconds, where HTTP has a form for it.
    pub(super) modified: Option<SystemTime>,
}

/// What is sent of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Selected {
    Whole,
    Part {
        from: u64,
        len: u64,
    },
    /// The client has it already.
    NotModified,
    /// It is not the version that the client wants.
    Changed,
    /// There is no such part.
    Unsatisfiable,
}

/// A file that was changed so shortly ago may be changed again with the same time: the clock of
/// file systems ticks some hundred times a second, or once.
const SETTLED_AFTER: Duration = Duration::from_secs(2);

impl Version {
    /// The version of a file with that time of change, size and number, seen at `now`.
    pub(super) fn new(modified: SystemTime, size: u64, inode: u64, now: SystemTime) -> Self {
        let since_epoch = modified.duration_since(SystemTime::UNIX_EPOCH);
        let stamp = since_epoch.as_ref().map_or(0, Duration::as_nanos);
        let is_settled = now.duration_since(modified).is_ok_and(|age| age >= SETTLED_AFTER);
        Self {
            tag: format!("\"{stamp:x}-{size:x}-{inode:x}\""),
            is_weak: !is_settled,
            modified: since_epoch.ok().map(|age| age.as_secs()).and_then(date),
        }
    }

    /// The value of the field ETag.
    pub(super) fn tag(&self) -> String {
        format!("{}{}", if self.is_weak { "W/" } else { "" }, self.tag)
    }

    /// Whether a list of tags has this one, whether weak or not.
    fn is_in(&self, list: &str) -> bool {
        list.trim() == "*"
            || list.split(',').any(|tag| {
                let tag = tag.trim();
                tag.strip_prefix("W/").unwrap_or(tag) == self.tag
            })
    }

    /// Whether it is certainly byte for byte what the client has.
    fn is_exactly(&self, validator: &str) -> bool {
        if self.is_weak {
            return false;
        }
        match validator.starts_with('"') {
            true => validator == self.tag,
            false => {
                let date = httpdate::parse_http_date(validator).ok();
                date.is_some() && date == self.modified
            }
        }
    }

    fn is_newer_than(&self, date: &str) -> Option<bool> {
        Some(self.modified? > httpdate::parse_http_date(date).ok()?)
    }
}

/// A time in whole seconds that has a form in HTTP: before the year 10000.
pub(super) fn date(seconds: u64) -> Option<SystemTime> {
    const YEAR_10000: u64 = 253_402_300_800;
    (seconds < YEAR_10000).then(|| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds))
}

impl Conditions {
    /// Decides about a file of `size` bytes; parts are for those alone who want `with_body`.
    pub(super) fn select(&self, version: &Version, size: u64, with_body: bool) -> Selected {
        // The order is that of RFC 9110, section 13.2.2.
        let changed = match (&self.if_match, &self.if_unmodified_since) {
            // A weak tag matches nothing here (section 13.1.1).
            (Some(list), _) => {
                list.trim() != "*"
                    && (version.is_weak || !list.split(',').any(|tag| tag.trim() == version.tag))
            }
            (None, Some(date)) => version.is_newer_than(date).unwrap_or(false),
            (None, None) => false,
        };
        if changed {
            return Selected::Changed;
        }
        let is_known = match (&self.if_none_match, &self.if_modified_since) {
            (Some(list), _) => version.is_in(list),
            (None, Some(date)) => version.is_newer_than(date) == Some(false),
            (None, None) => false,
        };
        if is_known {
            return Selected::NotModified;
        }
        let is_asked = |if_range: &String| version.is_exactly(if_range);
        match &self.range {
            Some(range) if with_body && self.if_range.as_ref().is_none_or(is_asked) => {
                part(range, size)
            }
            _ => Selected::Whole,
        }
    }
}

/// The part that a Range field asks for. What is not understood, and several parts at once, are
/// the whole file (RFC 9110, section 14.2).
fn part(range: &str, size: u64) -> Selected {
    let spec = range.split_once('=').filter(|(unit, _)| unit.trim().eq_ignore_ascii_case("bytes"));
    let bounds = spec.and_then(|(_, spec)| spec.trim().split_once('-'));
    let Some((first, last)) = bounds.map(|(first, last)| (first.trim(), last.trim())) else {
        return Selected::Whole;
    };
    let number = |text: &str| {
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        // What is too large for the type is larger than any file.
        digits.then(|| text.parse().unwrap_or(u64::MAX))
    };
    match (number(first), number(last)) {
        (Some(first), Some(last)) if first > last => Selected::Whole,
        (Some(first), _) if first >= size && (last.is_empty() || number(last).is_some()) => {
            Selected::Unsatisfiable
        }
        (Some(first), Some(last)) => {
            Selected::Part { from: first, len: last.min(size - 1) - first + 1 }
        }
        (Some(first), None) if last.is_empty() => Selected::Part { from: first, len: size - first },
        (None, Some(count)) if first.is_empty() => match count.min(size) {
            0 => Selected::Unsatisfiable,
            len => Selected::Part { from: size - len, len },
        },
        _ => Selected::Whole,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Changed at second 1000, and looked at so many seconds later.
    fn seen_after(seconds: u64) -> Version {
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        Version::new(at(1000) + Duration::from_millis(500), 100, 7, at(1001 + seconds))
    }

    #[test]
    fn ranges_of_a_hundred_bytes() {
        let part = |from, len| Selected::Part { from, len };
        for (range, selected) in [
            ("bytes=0-0", part(0, 1)),
            ("bytes=10-19", part(10, 10)),
            ("BYTES = 10-19 ", part(10, 10)),
            ("bytes=90-", part(90, 10)),
            ("bytes=99-1000", part(99, 1)),
            ("bytes=0-18446744073709551616", part(0, 100)),
            ("bytes=-1", part(99, 1)),
            ("bytes=-100", part(0, 100)),
            ("bytes=-99999999999999999999", part(0, 100)),
            ("bytes=100-", Selected::Unsatisfiable),
            ("bytes=100-200", Selected::Unsatisfiable),
            ("bytes=99999999999999999999-", Selected::Unsatisfiable),
            ("bytes=-0", Selected::Unsatisfiable),
            ("bytes=5-4", Selected::Whole),
            ("bytes=", Selected::Whole),
            ("bytes=-", Selected::Whole),
            ("bytes=a-b", Selected::Whole),
            ("bytes=200-x", Selected::Whole),
            ("bytes=+1-2", Selected::Whole),
            ("bytes=1-2-3", Selected::Whole),
            ("bytes=0-0,5-6", Selected::Whole),
            ("bytes=0-0, 1000-", Selected::Whole),
            ("lines=0-1", Selected::Whole),
            ("bytes", Selected::Whole),
        ] {
            let range = Some(range.to_owned());
            let conditions = Conditions { range: range.clone(), ..Conditions::default() };
            let version = seen_after(60);
            assert_eq!(conditions.select(&version, 100, true), selected, "{range:?}");
            assert_eq!(conditions.select(&version, 100, false), Selected::Whole);
            let of_nothing = conditions.select(&version, 0, true);
            assert!(matches!(of_nothing, Selected::Whole | Selected::Unsatisfiable), "{range:?}");
        }
    }

    #[test]
    fn conditions_are_taken_in_their_order() {
        let version = seen_after(60);
        let tag = version.tag();
        let same = "Thu, 01 Jan 1970 00:16:40 GMT";
        let before = "Thursday, 01-Jan-70 00:16:39 GMT";
        type Some = fn(&str) -> Option<String>;
        let select = |set: &dyn Fn(&mut Conditions, Some)| {
            let mut conditions = Conditions::default();
            set(&mut conditions, |text| Some(text.to_owned()));
            conditions.select(&version, 100, true)
        };
        assert_eq!(tag, "\"e8f2727500-64-7\"");
        let weak = format!("W/{tag}");
        let list = format!("\"x\" ,{weak}");
        for known in ["*", &tag, &weak, &list] {
            let selected = select(&|c, some| {
                c.if_none_match = some(known);
                c.if_modified_since = some(before);
                c.range = some("bytes=0-1");
            });
            assert_eq!(selected, Selected::NotModified, "{known}");
        }
        let other = select(&|c, some| {
            c.if_none_match = some("\"x\"");
            c.if_modified_since = some(same);
        });
        assert_eq!(other, Selected::Whole, "the tag decides");
        assert_eq!(select(&|c, some| c.if_modified_since = some(same)), Selected::NotModified);
        assert_eq!(select(&|c, some| c.if_modified_since = some(before)), Selected::Whole);
        assert_eq!(select(&|c, some| c.if_modified_since = some("today")), Selected::Whole);
        assert_eq!(select(&|c, some| c.if_match = some("\"x\"")), Selected::Changed);
        assert_eq!(select(&|c, some| c.if_match = some(&weak)), Selected::Changed);
        assert_eq!(select(&|c, some| c.if_match = some(&tag)), Selected::Whole);
        assert_eq!(select(&|c, some| c.if_match = some("*")), Selected::Whole);
        assert_eq!(select(&|c, some| c.if_unmodified_since = some(before)), Selected::Changed);
        assert_eq!(select(&|c, some| c.if_unmodified_since = some(same)), Selected::Whole);
    }

    #[test]
    fn a_part_is_sent_only_of_the_version_that_the_client_has() {
        let part = Selected::Part { from: 5, len: 5 };
        for (version, is_settled) in [(seen_after(60), true), (seen_after(0), false)] {
            let strong = version.tag.clone();
            assert_eq!(version.tag().starts_with("W/"), !is_settled);
            for (if_range, fits) in [
                (&*strong, true),
                ("Thu, 01 Jan 1970 00:16:40 GMT", true),
                ("Thu, 01 Jan 1970 00:16:41 GMT", false),
                (&*format!("W/{strong}"), false),
                ("\"x\"", false),
                ("", false),
            ] {
                let conditions = Conditions {
                    range: Some("bytes=5-9".to_owned()),
                    if_range: Some(if_range.to_owned()),
                    ..Conditions::default()
                };
                let expected = if fits && is_settled { part } else { Selected::Whole };
                assert_eq!(conditions.select(&version, 100, true), expected, "{if_range}");
            }
        }
    }

    #[test]
    fn a_time_that_http_cannot_say_is_left_out() {
        let far = SystemTime::UNIX_EPOCH + Duration::from_secs(300_000_000_000);
        assert_eq!(Version::new(far, 1, 2, far).modified, None);
        let early = SystemTime::UNIX_EPOCH - Duration::from_secs(1);
        assert_eq!(Version::new(early, 1, 2, far).modified, None);
        let conditions = Conditions {
            if_modified_since: Some("Thu, 01 Jan 1970 00:16:40 GMT".to_owned()),
            if_unmodified_since: Some("Thu, 01 Jan 1970 00:16:40 GMT".to_owned()),
            ..Conditions::default()
        };
        assert_eq!(conditions.select(&Version::new(far, 1, 2, far), 1, true), Selected::Whole);
    }
}
