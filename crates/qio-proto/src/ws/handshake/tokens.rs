//! Lists in header fields: RFC 9110, section 5.6.1.

/// The elements of all fields called `name`, in order.
pub(super) fn list<'a>(
    fields: &'a [httparse::Header<'a>],
    name: &'a str,
) -> impl Iterator<Item = &'a str> {
    all(fields, name).flat_map(|value| value.split(',')).map(trim).filter(|token| !token.is_empty())
}

/// Whether the list has that token, whatever its case.
pub(super) fn has_token(fields: &[httparse::Header<'_>], name: &str, token: &str) -> bool {
    list(fields, name).any(|candidate| candidate.eq_ignore_ascii_case(token))
}

/// The value of a field that must be there once.
pub(super) fn only<'a>(fields: &'a [httparse::Header<'a>], name: &'a str) -> Option<&'a str> {
    let mut values = all(fields, name);
    let value = values.next()?;
    values.next().is_none().then_some(value)
}

/// Whether there is a field of that name.
pub(super) fn has(fields: &[httparse::Header<'_>], name: &str) -> bool {
    fields.iter().any(|field| field.name.eq_ignore_ascii_case(name))
}

fn all<'a>(fields: &'a [httparse::Header<'a>], name: &'a str) -> impl Iterator<Item = &'a str> {
    let named = fields.iter().filter(move |field| field.name.eq_ignore_ascii_case(name));
    named.filter_map(|field| core::str::from_utf8(field.value).ok()).map(trim)
}

fn trim(value: &str) -> &str {
    value.trim_matches([' ', '\t'])
}
