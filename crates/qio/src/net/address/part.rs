//! One part of an address, with the options that are for it.

use std::borrow::Cow;
use std::ffi::OsStr;
use std::num::NonZero;
use std::os::unix::ffi::OsStrExt;
use std::time::Duration;

use super::value::{parse_count, parse_duration, parse_rate, parse_size, parse_switch};
use super::{Address, OptionInfo, Role};

/// A layer of an address, or its transport.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Part<'a> {
    pub(super) address: &'a Address,
    /// Counted from the outermost layer; their number is the transport.
    pub(super) index: usize,
}

impl<'a> Part<'a> {
    /// The whole.
    pub(crate) fn address(&self) -> &'a Address {
        self.address
    }

    pub(crate) fn role(&self) -> Role {
        self.address.role
    }

    /// What the address calls it: `tls`, and `tls2` for the second.
    pub(crate) fn name(&self) -> String {
        self.address.part_name(self.index)
    }

    /// Whether a layer of that name is nearer to the transport.
    pub(crate) fn is_over(&self, layer: &str) -> bool {
        self.address.layers[self.index + 1..].iter().any(|other| other.name == layer)
    }

    pub(super) fn options(&self) -> &'static [OptionInfo] {
        let layer = self.address.layers.get(self.index);
        layer.map_or(self.address.scheme.options, |layer| layer.options)
    }

    /// Whether an option was given.
    pub(crate) fn is_given(&self, key: &str) -> bool {
        self.values(key).next().is_some()
    }

    /// The value of a switch.
    pub(crate) fn switch(&self, key: &str) -> bool {
        self.text(key).is_some_and(|text| parse_switch(&text).unwrap_or(true))
    }

    /// The value of a time.
    pub(crate) fn duration(&self, key: &str) -> Option<Duration> {
        self.text(key).and_then(|text| parse_duration(&text).ok())
    }

    /// The value of a number.
    pub(crate) fn count(&self, key: &str) -> Option<u32> {
        self.text(key).and_then(|text| parse_count(&text)).and_then(|count| count.try_into().ok())
    }

    /// The value of a number of bytes.
    pub(crate) fn size(&self, key: &str) -> Option<usize> {
        self.text(key).and_then(|text| parse_size(&text).ok())
    }

    /// The value of a number of bytes a second.
    pub(crate) fn rate(&self, key: &str) -> Option<NonZero<u64>> {
        self.text(key).and_then(|text| parse_rate(&text).ok())
    }

    /// The value of an option as a text, or its default; a bare key is `on`.
    pub(crate) fn text(&self, key: &str) -> Option<Cow<'a, str>> {
        let given = self.values(key).last().map(OsStr::to_string_lossy);
        given.or_else(|| {
            let option = self.options().iter().find(|option| option.name == key);
            option.and_then(|option| option.default).map(Cow::Borrowed)
        })
    }

    /// All values that were given for an option.
    pub(crate) fn values<'k>(
        &self,
        key: &'k str,
    ) -> impl DoubleEndedIterator<Item = &'a OsStr> + use<'a, 'k> {
        let index = self.index;
        self.address
            .settings
            .iter()
            .filter(move |setting| setting.part == index && setting.option.name == key)
            .map(|setting| OsStr::from_bytes(setting.value.as_deref().unwrap_or(b"on")))
    }

    /// The same as texts, where bytes that are no UTF-8 mean nothing.
    pub(crate) fn texts<'k>(&self, key: &'k str) -> impl Iterator<Item = String> + use<'a, 'k> {
        self.values(key).map(|value| value.to_string_lossy().into_owned())
    }
}
