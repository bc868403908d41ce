//! A folder as a page.

use std::fmt::Write as _;
use std::io;
use std::os::fd::OwnedFd;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_encode};
use rustix::fs::{Dir, FileType};

use super::reply::Reply;

/// How many names are read: a folder with more is no page that somebody looks at.
const MAX_NAMES: usize = 4096;

/// How long the page may get.
const MAX_BYTES: usize = 256 * 1024;

/// What a name keeps in a link: RFC 3986, section 2.3. All others are escaped, the backslash above
/// all, which browsers take for a slash.
const IN_LINK: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// Lists a folder.
pub(super) fn listing(folder: OwnedFd, is_root: bool, with_hidden: bool) -> io::Result<Reply> {
    let mut names = Vec::new();
    let mut is_cut = false;
    for entry in Dir::new(folder)? {
        let entry = entry?;
        let mut name = entry.file_name().to_bytes().to_vec();
        if name == b"." || name == b".." || name.starts_with(b".") && !with_hidden {
            continue;
        }
        match entry.file_type() {
            FileType::Directory => name.push(b'/'),
            FileType::RegularFile | FileType::Symlink | FileType::Unknown => {}
            // They cannot be had.
            _ => continue,
        }
        if names.len() == MAX_NAMES {
            is_cut = true;
            break;
        }
        names.push(name);
    }
    names.sort();
    let mut page =
        String::from("<!DOCTYPE html>\n<meta charset=\"utf-8\">\n<title>Folder</title>\n<ul>\n");
    if !is_root {
        page.push_str("<li><a href=\"../\">../</a>\n");
    }
    for name in names {
        if page.len() >= MAX_BYTES {
            is_cut = true;
            break;
        }
        let text = escaped(&String::from_utf8_lossy(&name));
        // Writing into a String cannot fail.
        let _ = writeln!(page, "<li><a href=\"{}\">{text}</a>", link(&name));
    }
    page.push_str("</ul>\n");
    if is_cut {
        page.push_str("<p>There are more.\n");
    }
    let reply = Reply::new(200, "text/html; charset=utf-8", page.into_bytes());
    Ok(reply.field("Content-Security-Policy", "default-src 'none'"))
}

/// A reference to a name beside the page; the dot in front keeps it from being a scheme.
pub(super) fn link(name: &[u8]) -> String {
    let (name, slash) = match name {
        [name @ .., b'/'] => (name, "/"),
        name => (name, ""),
    };
    format!("./{}{slash}", percent_encode(name, IN_LINK))
}

fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            letter => escaped.push(letter),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_is_never_a_host_or_a_scheme() {
        for (name, expected) in [
            ("a b", "./a%20b"),
            ("dir/", "./dir/"),
            ("javascript:x", "./javascript%3Ax"),
            ("\\evil.example/", "./%5Cevil.example/"),
            ("a\"><b>?#", "./a%22%3E%3Cb%3E%3F%23"),
        ] {
            assert_eq!(link(name.as_bytes()), expected);
        }
        assert_eq!(link(b"\xff"), "./%FF");
        assert_eq!(escaped("<a href='x'>&\""), "&lt;a href=&#39;x&#39;&gt;&amp;&quot;");
    }
}
