//! From a text to an address.

use super::escape::decode;
use super::refusal::{Refusal, closest, suggestion};
use super::{Address, Role, qemu};
use crate::net::layer::{LAYERS, Layer};
use crate::net::scheme::{SCHEMES, Scheme, stdio};

pub(super) fn parse(text: &[u8]) -> Result<Address, Refusal> {
    let (role, text) = match text.strip_prefix(b"listen:") {
        Some(text) => (Role::Listen, text),
        None => (Role::Connect, text),
    };
    if let Some(text) = text.strip_prefix(b"qemu:") {
        return qemu::parse(role, text);
    }
    // A known scheme with options behind commas is QEMU's, too: tcp:host:80,server=on.
    let hint = || if text.contains(&b',') { qemu::meant(role, text) } else { None };
    parse_own(role, text).map_err(|refusal| refusal.or_hint(hint))
}

fn parse_own(role: Role, text: &[u8]) -> Result<Address, Refusal> {
    let (layers, scheme, text) = parse_parts(role, text)?;
    let text = text.strip_prefix(b"//").unwrap_or(text);
    let (target, options) = text.split_at((scheme.form.end)(text));
    let mut address = Address {
        role,
        layers,
        scheme,
        target: (scheme.form.split)(target)?,
        settings: Vec::new(),
    };
    if let Some(options) = options.strip_prefix(b"?") {
        for option in options.split(|&byte| byte == b'&') {
            parse_option(option, &mut address)?;
        }
    }
    address.check()?;
    Ok(address)
}

/// Cuts off everything up to the colon.
fn parse_parts(
    role: Role,
    text: &[u8],
) -> Result<(Vec<&'static Layer>, &'static Scheme, &[u8]), Refusal> {
    if let Some(rest @ ([] | [b'?', ..])) = text.strip_prefix(b"-") {
        return Ok((Vec::new(), &stdio::SCHEME, rest));
    }
    if text.is_empty() {
        return Err(Refusal::new("the address is empty").hint(schemes("")));
    }
    let Some(colon) = text.iter().position(|&byte| byte == b':') else {
        return Err(no_scheme(role, text));
    };
    let whole = text;
    let (names, rest) = (String::from_utf8_lossy(&text[..colon]), &text[colon + 1..]);
    let mut layers = Vec::new();
    let mut names = names.split('+').peekable();
    while let Some(name) = names.next() {
        if names.peek().is_none() {
            let Some(scheme) = SCHEMES.iter().find(|scheme| scheme.name == name) else {
                return Err(unknown_scheme(name, role, whole));
            };
            return Ok((layers, scheme, rest));
        }
        match LAYERS.iter().find(|layer| layer.name == name) {
            Some(layer) => layers.push(layer),
            None => {
                let known: Vec<_> = LAYERS.iter().map(|layer| layer.name).collect();
                return Err(Refusal::new(format!("layer {name:?} is not known"))
                    .hint(suggestion(name, "layers", &known)));
            }
        }
    }
    Err(no_scheme(role, text))
}

fn no_scheme(role: Role, text: &[u8]) -> Refusal {
    let refusal = Refusal::new("there is no scheme in front of it");
    if let Some(hint) = qemu::meant(role, text) {
        return refusal.hint(hint);
    }
    if text.contains(&b'/') {
        let text = String::from_utf8_lossy(text);
        return refusal.hint(format!("did you mean unix:{text} or file:{text}?"));
    }
    refusal.hint(schemes(&String::from_utf8_lossy(text)))
}

fn unknown_scheme(name: &str, role: Role, text: &[u8]) -> Refusal {
    let refusal = Refusal::new(format!("scheme {name:?} is not known"));
    // "tpc:1" may be the port of a host of that name, and most likely is none.
    let is_slip = closest(name, SCHEMES.iter().map(|scheme| scheme.name)).is_some();
    let Some(meant) = qemu::meant(role, text).filter(|_| !is_slip) else {
        return refusal.hint(schemes(name));
    };
    // "ssh:box" is the service "box" of the host "ssh" to QEMU, and most likely a scheme.
    let target = text.split(|&byte| byte == b'?').next().unwrap_or(text);
    if !text.contains(&b',') && !target.last().is_some_and(u8::is_ascii_digit) {
        return refusal.hint(format!("{}; {meant}", schemes(name)));
    }
    refusal.hint(meant)
}

fn schemes(name: &str) -> String {
    let known: Vec<_> = SCHEMES.iter().map(|scheme| scheme.name).collect();
    suggestion(name, "schemes", &known)
}

fn parse_option(option: &[u8], address: &mut Address) -> Result<(), Refusal> {
    let mut parts = option.splitn(2, |&byte| byte == b'=');
    let key = String::from_utf8_lossy(parts.next().unwrap_or(b""));
    if key.is_empty() {
        return Err(
            Refusal::new("an option has no name").hint("options are written ?key=value&key=value")
        );
    }
    let value = parts.next().map(decode).transpose()?;
    let setting = address.setting(&key, value)?;
    address.settings.push(setting);
    Ok(())
}
