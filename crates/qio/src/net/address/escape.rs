//! `%XX` in targets and values.

use std::fmt::Write;

use super::refusal::Refusal;

/// Replaces every `%XX` by its byte.
///
/// A `%` that starts no escape is refused instead of being taken as it is: the same text with
/// other letters behind it would mean something else.
pub(crate) fn decode(text: &[u8]) -> Result<Vec<u8>, Refusal> {
    for (at, _) in text.iter().enumerate().filter(|&(_, &byte)| byte == b'%') {
        let digits = text.get(at + 1..at + 3).unwrap_or(&text[at + 1..]);
        if digits.len() < 2 || !digits.iter().all(u8::is_ascii_hexdigit) {
            let found = String::from_utf8_lossy(digits);
            return Err(Refusal::new(format!("\"%{found}\" is no escape"))
                .hint("% and two hexadecimal digits are one byte; a % itself is written %25"));
        }
    }
    Ok(percent_encoding::percent_decode(text).collect())
}

/// Writes `bytes` so that [`decode`] gives them back: `%`, control characters, what is no UTF-8
/// and the characters in `special` are escaped.
pub(crate) fn encode(bytes: &[u8], special: &str, out: &mut String) {
    for chunk in bytes.utf8_chunks() {
        for character in chunk.valid().chars() {
            if character == '%' || character.is_control() || special.contains(character) {
                let mut buf = [0; 4];
                escape(character.encode_utf8(&mut buf).as_bytes(), out);
            } else {
                out.push(character);
            }
        }
        escape(chunk.invalid(), out);
    }
}

fn escape(bytes: &[u8], out: &mut String) {
    for byte in bytes {
        // Writing into a String cannot fail.
        let _ = write!(out, "%{byte:02X}");
    }
}
