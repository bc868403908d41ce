//! From a text to an address.

use super::escape::decode;
use super::refusal::{Refusal, closest, suggestion};
use super::{Address, Role, qemu};
use crate::net::layer::{LAYERS, Layer, SHORTHANDS};
use crate::net::scheme::{SCHEMES, Scheme, stdio, tcp};

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
    let Parts { layers, scheme, port, rest: text } = parse_parts(role, text)?;
    let text = text.strip_prefix(b"//").unwrap_or(text);
    let (target, options) = text.split_at((scheme.form.end)(text));
    let mut address = Address { role, layers, scheme, target: Vec::new(), settings: Vec::new() };
    let inside = address.part_in_target();
    let slash = inside.and_then(|_| target.iter().position(|&byte| byte == b'/'));
    let (target, path) = target.split_at(slash.unwrap_or(target.len()));
    address.target = (scheme.form.split)(target)?;
    if let (Some(port), 1) = (port, address.target.len()) {
        address.target.push(port.into());
    }
    if let (Some((part, key)), [_, ..]) = (inside, path) {
        let key = format!("{}.{key}", address.part_name(part));
        let setting = address.setting(&key, Some(decode(path)?))?;
        address.put(setting);
    }
    if let Some(options) = options.strip_prefix(b"?") {
        for option in options.split(|&byte| byte == b'&') {
            parse_option(option, &mut address)?;
        }
    }
    address.check()?;
    Ok(address)
}

/// What stands in front of the colon, and the rest.
struct Parts<'a> {
    layers: Vec<&'static Layer>,
    scheme: &'static Scheme,
    /// The port that is meant when none is given.
    port: Option<&'static str>,
    rest: &'a [u8],
}

/// Cuts off everything up to the colon.
fn parse_parts(role: Role, text: &[u8]) -> Result<Parts<'_>, Refusal> {
    let end = text.iter().position(|&byte| byte == b'?').unwrap_or(text.len());
    let (front, rest) = text.split_at(end);
    if let Some(outer) = front.strip_suffix(b"-").filter(|outer| !outer.contains(&b':'))
        && (outer.is_empty() || outer.ends_with(b"+"))
    {
        let outer = String::from_utf8_lossy(outer);
        let names = outer.split_terminator('+');
        let layers = names.map(find_layer).collect::<Result<_, _>>()?;
        return Ok(Parts { layers, scheme: &stdio::SCHEME, port: None, rest });
    }
    if text.is_empty() {
        return Err(Refusal::new("the address is empty").hint(schemes("")));
    }
    let Some(colon) = text.iter().position(|&byte| byte == b':') else {
        return Err(no_scheme(role, text));
    };
    let whole = text;
    let (names, rest) = (String::from_utf8_lossy(&text[..colon]), &text[colon + 1..]);
    let (outer, name) = match names.rsplit_once('+') {
        Some((outer, name)) => (Some(outer), name),
        None => (None, &*names),
    };
    let mut layers = Vec::new();
    for name in outer.into_iter().flat_map(|outer| outer.split('+')) {
        layers.push(find_layer(name)?);
    }
    if let Some(short) = SHORTHANDS.iter().find(|short| short.name == name) {
        for name in short.layers {
            layers.push(find_layer(name)?);
        }
        return Ok(Parts { layers, scheme: &tcp::SCHEME, port: Some(short.port), rest });
    }
    match SCHEMES.iter().find(|scheme| scheme.name == name) {
        Some(scheme) => Ok(Parts { layers, scheme, port: None, rest }),
        None => Err(unknown_scheme(name, role, whole)),
    }
}

fn find_layer(name: &str) -> Result<&'static Layer, Refusal> {
    if let Some(layer) = LAYERS.iter().find(|layer| layer.name == name) {
        return Ok(layer);
    }
    let refusal = Refusal::new(format!("layer {name:?} is not known"));
    if name == "tls" {
        return Err(refusal.hint("this program was built without TLS: the feature tls of qio"));
    }
    if let Some(short) = SHORTHANDS.iter().find(|short| short.name == name) {
        let long = short.layers.join("+");
        return Err(refusal.hint(format!("{name} is {long}+tcp; did you mean {long}+…?")));
    }
    let known: Vec<_> = LAYERS.iter().map(|layer| layer.name).collect();
    Err(refusal.hint(suggestion(name, "layers", &known)))
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
    address.put(setting);
    Ok(())
}
