//! Numbers as bytes: LEB128 varints, zigzag, and a reader that never runs past its end.

use super::CodecError;

/// Bytes of the longest varint of 64 bits.
const VARINT_BYTES_MAX: usize = 10;

/// Appends `value`, seven bits a byte, the lowest first.
pub(super) fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value.to_le_bytes()[0] | 0x80);
        value >>= 7;
    }
    out.push(value.to_le_bytes()[0]);
}

/// Appends the way from `base` to `value`, around the end of the number range if need be.
pub(super) fn put_difference(out: &mut Vec<u8>, base: u64, value: u64) {
    let difference = value.wrapping_sub(base).cast_signed();
    put_varint(out, ((difference << 1) ^ (difference >> 63)).cast_unsigned());
}

/// Takes numbers off the front of some bytes.
pub(super) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    pub(super) fn remaining(&self) -> usize {
        self.rest.len()
    }

    pub(super) fn bytes<const N: usize>(&mut self) -> Result<[u8; N], CodecError> {
        let (taken, rest) = self.rest.split_first_chunk().ok_or(CodecError::Truncated)?;
        self.rest = rest;
        Ok(*taken)
    }

    pub(super) fn varint(&mut self) -> Result<u64, CodecError> {
        let mut value = 0;
        for at in 0..VARINT_BYTES_MAX {
            let [byte] = self.bytes()?;
            let bits = u64::from(byte & 0x7f);
            if at == VARINT_BYTES_MAX - 1 && bits > 1 {
                break;
            }
            value |= bits << (7 * at);
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(CodecError::Malformed { what: "a varint of more than 64 bits" })
    }

    /// What [`put_difference`] wrote against the same base.
    pub(super) fn difference_to(&mut self, base: u64) -> Result<u64, CodecError> {
        let zigzag = self.varint()?;
        let difference = (zigzag >> 1) ^ (zigzag & 1).wrapping_neg();
        Ok(base.wrapping_add(difference))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn small_distances_take_one_byte() {
        let check = |base: u64, value: u64, bytes: usize| {
            let mut out = Vec::new();
            put_difference(&mut out, base, value);
            assert_eq!(out.len(), bytes, "{base} to {value}");
        };
        check(5, 5, 1);
        check(1_000_000, 1_000_063, 1);
        check(1_000_000, 1_000_064, 2);
        check(0, u64::MAX, 1);
        check(0, 1 << 63, 10);
    }

    #[test]
    fn a_number_that_does_not_end_is_refused() {
        let check = |bytes: &[u8], expect: &str| {
            assert_eq!(Reader::new(bytes).varint().unwrap_err().to_string(), expect, "{bytes:x?}");
        };
        check(&[], "payload ends in the middle of a value");
        check(&[0x80], "payload ends in the middle of a value");
        check(&[0x80; 40], "payload holds a varint of more than 64 bits");
        check(
            &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2],
            "payload holds a varint of more than 64 bits",
        );
    }

    proptest! {
        #[test]
        fn any_difference_survives(base: u64, value: u64) {
            let mut out = Vec::new();
            put_difference(&mut out, base, value);
            let mut reader = Reader::new(&out);
            prop_assert_eq!(reader.difference_to(base).unwrap(), value);
            prop_assert_eq!(reader.remaining(), 0);
        }
    }
}
