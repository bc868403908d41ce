//! Records for people.

use std::fmt;

use super::{Entry, Record};

/// A record as lines of text: [`Record::text`], [`Record::hex`].
#[derive(Clone, Copy, Debug)]
pub struct Shown<'a> {
    record: &'a Record,
    hex: bool,
}

impl Record {
    /// Shows data as text: a line for each of its lines, other bytes escaped.
    ///
    /// `>` is what was written, `<` what was read:
    ///
    /// ```
    /// use std::time::Duration;
    /// use qio::layer::tap::{Entry, Record};
    ///
    /// let entry = Entry::Written(b"GET / HTTP/1.1\r\n\r\n".to_vec());
    /// let record = Record::new(Duration::from_micros(1500), 0, entry);
    /// assert_eq!(
    ///     record.text().to_string(),
    ///     "0.001500 #0 > 18 bytes\n    GET / HTTP/1.1\\r\\n\n    \\r\\n\n",
    /// );
    /// ```
    pub fn text(&self) -> Shown<'_> {
        Shown { record: self, hex: false }
    }

    /// Shows data as numbers and text, 16 bytes a line.
    pub fn hex(&self) -> Shown<'_> {
        Shown { record: self, hex: true }
    }
}

impl fmt::Display for Shown<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Record { time, stream, entry } = self.record;
        write!(out, "{}.{:06} ", time.as_secs(), time.subsec_micros())?;
        if !matches!(entry, Entry::Gap { .. }) {
            write!(out, "#{stream} ")?;
        }
        let (way, data) = match entry {
            // From a file, and so from anybody: no control characters.
            Entry::Opened(name) => return writeln!(out, "opened {}", name.escape_debug()),
            Entry::End => return writeln!(out, "< end"),
            Entry::Finished => return writeln!(out, "> end"),
            Entry::Closed => return writeln!(out, "closed"),
            Entry::ReadFailed(text) => return writeln!(out, "< error: {}", text.escape_debug()),
            Entry::WriteFailed(text) => return writeln!(out, "> error: {}", text.escape_debug()),
            Entry::Gap { records, bytes } => {
                return writeln!(out, "gap: {records} records with {bytes} bytes are missing");
            }
            Entry::Other { kind, payload } => {
                return writeln!(out, "kind {kind} with {} bytes", payload.len());
            }
            Entry::Read(data) => ('<', data),
            Entry::Written(data) => ('>', data),
        };
        let plural = if data.len() == 1 { "" } else { "s" };
        writeln!(out, "{way} {} byte{plural}", data.len())?;
        if self.hex { show_hex(out, data) } else { show_text(out, data) }
    }
}

fn show_text(out: &mut fmt::Formatter<'_>, data: &[u8]) -> fmt::Result {
    for line in data.split_inclusive(|byte| *byte == b'\n') {
        out.write_str("    ")?;
        for chunk in line.utf8_chunks() {
            // As it would be written in Rust, without the quotes that need no escape here.
            for char in chunk.valid().chars() {
                match char {
                    '\'' | '"' => fmt::Write::write_char(out, char)?,
                    char => write!(out, "{}", char.escape_debug())?,
                }
            }
            for byte in chunk.invalid() {
                write!(out, "\\x{byte:02x}")?;
            }
        }
        out.write_str("\n")?;
    }
    Ok(())
}

fn show_hex(out: &mut fmt::Formatter<'_>, data: &[u8]) -> fmt::Result {
    for (n, line) in data.chunks(16).enumerate() {
        write!(out, "    {:08x} ", n * 16)?;
        for at in 0..16 {
            if at == 8 {
                out.write_str(" ")?;
            }
            match line.get(at) {
                Some(byte) => write!(out, " {byte:02x}")?,
                None => out.write_str("   ")?,
            }
        }
        out.write_str("  |")?;
        for byte in line {
            let shown = if byte.is_ascii_graphic() || *byte == b' ' { *byte } else { b'.' };
            fmt::Write::write_char(out, shown.into())?;
        }
        out.write_str("|\n")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn record(entry: Entry) -> Record {
        Record::new(Duration::from_millis(61_002), 4, entry)
    }

    #[test]
    fn text_is_shown_line_by_line_and_escaped() {
        let data = b"it's \"ok\"\n\xc3\xa4\xff\x1b[0m".to_vec();
        assert_eq!(
            record(Entry::Read(data)).text().to_string(),
            "61.002000 #4 < 17 bytes\n    it's \"ok\"\\n\n    \u{e4}\\xff\\u{1b}[0m\n"
        );
        let evil = record(Entry::Opened("\u{1b}[2J".into()));
        assert_eq!(evil.to_string(), "61.002000 #4 opened \\u{1b}[2J\n");
    }

    #[test]
    fn hex_is_shown_in_columns() {
        assert_eq!(
            record(Entry::Written((60..80).collect())).hex().to_string(),
            "61.002000 #4 > 20 bytes\n    \
             00000000  3c 3d 3e 3f 40 41 42 43  44 45 46 47 48 49 4a 4b  |<=>?@ABCDEFGHIJK|\n    \
             00000010  4c 4d 4e 4f                                       |LMNO|\n"
        );
        let gap = Entry::Gap { records: 2, bytes: 10 };
        let text = "61.002000 gap: 2 records with 10 bytes are missing\n";
        assert_eq!(record(gap).hex().to_string(), text);
    }
}
