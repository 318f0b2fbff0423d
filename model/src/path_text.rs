//! Cgroup paths as text: a cgroup's name may hold any byte but `/` and NUL, a proto string may not.
//!
//! Printable UTF-8 stays as it is; every other byte, and the backslash, becomes `\xHH`.

use std::fmt::Write as _;

/// Writes path bytes as text; [`unescape_path`] gives the same bytes back.
pub fn escape_path(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for char in chunk.valid().chars() {
            if char == '\\' || char.is_control() {
                let mut utf8 = [0; 4];
                escape_bytes(&mut text, char.encode_utf8(&mut utf8).as_bytes());
            } else {
                text.push(char);
            }
        }
        escape_bytes(&mut text, chunk.invalid());
    }
    text
}

fn escape_bytes(text: &mut String, bytes: &[u8]) {
    for byte in bytes {
        // Writing to a String cannot fail.
        let _ = write!(text, "\\x{byte:02x}");
    }
}

/// Reads the bytes of a path written by [`escape_path`] or by hand.
pub fn unescape_path(text: &str) -> Result<Vec<u8>, InvalidEscape> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        bytes.extend_from_slice(&rest.as_bytes()[..at]);
        let digits = rest[at..].strip_prefix("\\x").and_then(|hex| hex.get(..2));
        // from_str_radix alone would take a sign.
        let digits = digits.filter(|hex| hex.bytes().all(|digit| digit.is_ascii_hexdigit()));
        let byte = digits.and_then(|hex| u8::from_str_radix(hex, 16).ok());
        bytes.push(byte.ok_or_else(|| InvalidEscape { text: text.to_owned() })?);
        rest = &rest[at + 4..];
    }
    bytes.extend_from_slice(rest.as_bytes());
    Ok(bytes)
}

/// A backslash that does not begin `\xHH`.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{text:?} has a backslash that does not begin \\xHH (two hexadecimal digits)")]
pub struct InvalidEscape {
    /// The text as given.
    pub text: String,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn only_what_text_cannot_hold_is_escaped() {
        let check = |bytes: &[u8], expect: &str| assert_eq!(escape_path(bytes), expect);
        check(b"/user.slice/a b", "/user.slice/a b");
        check("/größe".as_bytes(), "/größe");
        check(b"/a\nb", "/a\\x0ab");
        check(b"/system-x\\x2dy", "/system-x\\x5cx2dy");
        check(b"/\xff\xfe", "/\\xff\\xfe");
    }

    #[test]
    fn a_stray_backslash_is_refused() {
        for text in ["\\", "\\x", "\\x4", "\\xzz", "\\n", "a\\x+1", "\\xé"] {
            assert!(unescape_path(text).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_survive(bytes: Vec<u8>) {
            prop_assert_eq!(unescape_path(&escape_path(&bytes)).unwrap(), bytes);
        }

        #[test]
        fn any_text_is_read_or_refused(text: String) {
            let _ = unescape_path(&text);
        }
    }
}
