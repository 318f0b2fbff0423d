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

/// How many bytes [`put_varint`] appends: as many as there are sevens of bits, by a multiplication
/// that is right for each of the 64 cases.
pub(super) fn varint_len(value: u64) -> usize {
    let bits = 64 - (value | 1).leading_zeros() as usize;
    (bits * 9 + 64) / 64
}

/// Appends the way from `base` to `value`, around the end of the number range if need be.
pub(super) fn put_difference(out: &mut Vec<u8>, base: u64, value: u64) {
    put_varint(out, zigzag(value.wrapping_sub(base)));
}

/// A number near zero, on whichever side of the number range's end, as a small one.
pub(super) fn zigzag(difference: u64) -> u64 {
    let difference = difference.cast_signed();
    ((difference << 1) ^ (difference >> 63)).cast_unsigned()
}

/// What [`zigzag`] was given.
pub(super) fn unzigzag(zigzag: u64) -> u64 {
    (zigzag >> 1) ^ (zigzag & 1).wrapping_neg()
}

/// Takes numbers off the front of some bytes.
#[derive(Clone)]
pub(super) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    pub(super) fn bytes<const N: usize>(&mut self) -> Result<[u8; N], CodecError> {
        let (taken, rest) = self.rest.split_first_chunk().ok_or(CodecError::Truncated)?;
        self.rest = rest;
        Ok(*taken)
    }

    /// A reader of the next `len` bytes alone, which this one passes.
    pub(super) fn part(&mut self, len: u64) -> Result<Self, CodecError> {
        let len = usize::try_from(len).map_err(|_| CodecError::Truncated)?;
        let (taken, rest) = self.rest.split_at_checked(len).ok_or(CodecError::Truncated)?;
        self.rest = rest;
        Ok(Self { rest: taken })
    }

    /// Refuses bytes that nobody read.
    pub(super) fn expect_end(&self) -> Result<(), CodecError> {
        if self.rest.is_empty() { Ok(()) } else { Err(CodecError::Trailing { bytes: self.rest.len() }) }
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
        Ok(base.wrapping_add(unzigzag(self.varint()?)))
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
    fn the_length_of_every_width_is_known() {
        for bits in 0..64 {
            for value in [1 << bits, (1 << bits) - 1] {
                let mut out = Vec::new();
                put_varint(&mut out, value);
                assert_eq!(varint_len(value), out.len(), "{value}");
            }
        }
        assert_eq!(varint_len(u64::MAX), 10);
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
            prop_assert_eq!(varint_len(zigzag(value.wrapping_sub(base))), out.len());
            let mut reader = Reader::new(&out);
            prop_assert_eq!(reader.difference_to(base).unwrap(), value);
            prop_assert!(reader.expect_end().is_ok());
        }
    }
}
