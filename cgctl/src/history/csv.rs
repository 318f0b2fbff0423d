//! Comma-separated values (RFC 4180, lines end in \n): an absent one is empty.

use std::io::{self, Write};

/// Writes a line.
pub(super) fn write_csv<T: AsRef<str>>(
    out: &mut (impl Write + ?Sized),
    cells: impl IntoIterator<Item = Option<T>>,
) -> io::Result<()> {
    for (place, cell) in cells.into_iter().enumerate() {
        if place > 0 {
            out.write_all(b",")?;
        }
        let text = cell.as_ref().map_or("", |cell| cell.as_ref());
        if text.contains([',', '"', '\n', '\r']) {
            write!(out, "\"{}\"", text.replace('"', "\"\""))?;
        } else {
            out.write_all(text.as_bytes())?;
        }
    }
    out.write_all(b"\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_would_be_read_otherwise_is_quoted() {
        let check = |cells: &[Option<&str>], expect: &str| {
            let mut out = Vec::new();
            write_csv(&mut out, cells.iter().copied()).unwrap();
            assert_eq!(String::from_utf8(out).unwrap(), expect);
        };
        check(&[Some("a"), None, Some("1.5")], "a,,1.5\n");
        check(&[Some("a,b"), Some("say \"x\""), Some("l\nm")], "\"a,b\",\"say \"\"x\"\"\",\"l\nm\"\n");
    }
}
