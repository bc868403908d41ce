//! The shapes that a target can have in a text.

use super::escape::{decode, encode};
use super::refusal::Refusal;

/// The decoded words of a target.
pub(crate) type Words = Vec<Vec<u8>>;

/// How the target of a scheme is cut into words, and how the words are written again.
///
/// The words are what the scheme works with: decoded bytes, a host and a port, a path, a program
/// and its arguments. [`split`](Form::split) looks only at the shape, the scheme checks what the
/// words mean.
pub(crate) struct Form {
    /// Where in a text the target ends: at the `?` that starts the options, or at the end.
    pub(crate) end: fn(&[u8]) -> usize,
    pub(crate) split: fn(&[u8]) -> Result<Words, Refusal>,
    pub(crate) print: fn(&[Vec<u8>], &mut String),
    /// Whether the two slashes that may follow the colon are written.
    pub(crate) slashes: bool,
}

impl Form {
    /// Nothing at all.
    pub(crate) const NOTHING: Self = Self {
        end: first_question_mark,
        split: |text| match text {
            [] => Ok(Vec::new()),
            text => Err(Refusal::new(format!(
                "nothing can follow the colon, but {:?} does",
                String::from_utf8_lossy(text)
            ))),
        },
        print: |_, _| {},
        slashes: false,
    };

    /// One word: a path, a number.
    pub(crate) const WORD: Self = Self {
        end: first_question_mark,
        split: |text| Ok(vec![decode(text)?]),
        print: |words, out| encode(first(words), "?", out),
        slashes: false,
    };

    /// A path, or `@` and a name: the words are the path, or `@` and the name.
    pub(crate) const PATH_OR_NAME: Self = Self {
        end: first_question_mark,
        split: |text| match text {
            [b'@', name @ ..] => Ok(vec![b"@".to_vec(), decode(name)?]),
            path => Ok(vec![decode(path)?]),
        },
        print: |words, out| match words {
            [_, name] => {
                out.push('@');
                encode(name, "?", out);
            }
            words => match first(words) {
                [b'@', rest @ ..] => {
                    out.push_str("%40");
                    encode(rest, "?", out);
                }
                path => encode(path, "?", out),
            },
        },
        slashes: false,
    };

    /// Words with colons between them: numbers, names.
    pub(crate) const COLONS: Self = Self {
        end: first_question_mark,
        split: |text| text.split(|&byte| byte == b':').map(decode).collect(),
        print: |words, out| {
            for (index, word) in words.iter().enumerate() {
                if index > 0 {
                    out.push(':');
                }
                encode(word, "?:", out);
            }
        },
        slashes: false,
    };

    /// `host:port` or `host`, with an IPv6 address in brackets: one or two words.
    pub(crate) const HOST_AND_PORT: Self = Self {
        end: first_question_mark,
        split: split_host,
        print: |words, out| {
            let host = first(words);
            if host.contains(&b':') {
                out.push('[');
                encode(host, "?[]", out);
                out.push(']');
            } else {
                encode(host, "?[]", out);
            }
            if let Some(port) = words.get(1) {
                out.push(':');
                encode(port, "?", out);
            }
        },
        slashes: true,
    };

    /// Words with the quoting rules of the shell; escapes are decoded inside of words only.
    pub(crate) const SHELL_WORDS: Self = Self {
        end: |text| {
            let found = unquoted(text).into_iter().find(|&at| text[at] == b'?');
            found.unwrap_or(text.len())
        },
        split: split_words,
        print: |words, out| {
            for (index, word) in words.iter().enumerate() {
                if index > 0 {
                    out.push(' ');
                }
                let mut text = String::new();
                encode(word, "", &mut text);
                match shlex::try_quote(&text) {
                    Ok(quoted) => out.push_str(&quoted),
                    // Only a NUL byte cannot be quoted, and that was escaped.
                    Err(_) => out.push_str(&text),
                }
            }
        },
        slashes: false,
    };
}

fn first(words: &[Vec<u8>]) -> &[u8] {
    words.first().map_or(&[], Vec::as_slice)
}

fn first_question_mark(text: &[u8]) -> usize {
    text.iter().position(|&byte| byte == b'?').unwrap_or(text.len())
}

fn split_host(text: &[u8]) -> Result<Words, Refusal> {
    let (host, port) = if let Some(text) = text.strip_prefix(b"[") {
        let Some(end) = text.iter().position(|&byte| byte == b']') else {
            return Err(Refusal::new("the bracket that starts the host is never closed"));
        };
        match &text[end + 1..] {
            [] => (&text[..end], None),
            [b':', port @ ..] => (&text[..end], Some(port)),
            rest => {
                let rest = String::from_utf8_lossy(rest);
                return Err(Refusal::new(format!(
                    "{rest:?} follows the host, where a colon and the port belong"
                )));
            }
        }
    } else {
        match text.iter().rposition(|&byte| byte == b':') {
            None => (text, None),
            Some(colon) if text[..colon].contains(&b':') => {
                return Err(Refusal::new("more than one colon in host and port")
                    .hint("an IPv6 address stands in brackets: [::1]:80"));
            }
            Some(colon) => (&text[..colon], Some(&text[colon + 1..])),
        }
    };
    let mut words = vec![decode(host)?];
    if let Some(port) = port {
        words.push(decode(port)?);
    }
    Ok(words)
}

fn split_words(text: &[u8]) -> Result<Words, Refusal> {
    let plain = unquoted(text);
    let starts_word = |at: usize| at == 0 || (plain.contains(&(at - 1)) && is_blank(text[at - 1]));
    // The shell would take it and everything behind it for a comment.
    if plain.iter().any(|&at| text[at] == b'#' && starts_word(at)) {
        return Err(Refusal::new("a word starts with #").hint("quote it: '#'"));
    }
    let Some(words) = shlex::bytes::split(text) else {
        return Err(Refusal::new("a quote is never closed, or nothing follows a backslash"));
    };
    words.iter().map(|word| decode(word)).collect()
}

fn is_blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n')
}

/// The positions of the bytes that no quote and no backslash protects.
fn unquoted(text: &[u8]) -> Vec<usize> {
    let mut found = Vec::new();
    let mut quote = None;
    let mut at = 0;
    while let Some(&byte) = text.get(at) {
        match (quote, byte) {
            (Some(b'"') | None, b'\\') => at += 1,
            (None, b'"' | b'\'') => quote = Some(byte),
            (None, _) => found.push(at),
            (Some(open), byte) if open == byte => quote = None,
            (Some(_), _) => {}
        }
        at += 1;
    }
    found
}
