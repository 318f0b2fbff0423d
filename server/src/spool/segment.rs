//! What a segment file looks like: a header with its version, then records, each with its length and checksum. Pure.
//!
//! Header: magic · version · number · checksum, and from [`MARKS_AT`] on what is rewritten in place: how far the segment
//! was drained, how far it was synced, checksum. Record: magic · length · checksum of length and body · body. All
//! numbers are little-endian. A record that is not whole is told from its checksum, and the next one from its magic.

/// Bytes before the first record.
pub(super) const HEADER_BYTES: u64 = 64;

/// Where [`Marks`] are in a file.
pub(super) const MARKS_AT: u64 = 32;

/// Bytes of a record before its body.
pub(super) const FRAME_BYTES: usize = 12;

const MAGIC: &[u8; 8] = b"cgspool\0";
const RECORD_MAGIC: &[u8; 4] = b"tick";
const VERSION: u32 = 1;

/// A segment's first bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Header {
    /// Of this version; `None` where the marks are not whole.
    Known(Option<Marks>),
    /// Of a version that a newer server writes.
    Newer(u32),
    /// Not whole. The records may be.
    Damaged,
}

/// What is known of a segment beside its records. Never synced by itself: after a power failure it may be older.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Marks {
    /// Records before this place are in the store.
    pub(super) drained_through: u64,
    /// Bytes before this place were synced.
    pub(super) synced_through: u64,
}

impl Marks {
    pub(super) fn to_bytes(self) -> [u8; 20] {
        let mut bytes = [0; 20];
        bytes[..8].copy_from_slice(&self.drained_through.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.synced_through.to_le_bytes());
        let checksum = crc32fast::hash(&bytes[..16]);
        bytes[16..].copy_from_slice(&checksum.to_le_bytes());
        bytes
    }

    fn of(bytes: &[u8]) -> Option<Self> {
        let (marks, checksum) = bytes.get(..20)?.split_at(16);
        let whole = crc32fast::hash(marks).to_le_bytes() == checksum;
        let [drained_through, synced_through] = [&marks[..8], &marks[8..]].map(u64_of);
        whole.then_some(Self { drained_through, synced_through })
    }
}

/// The header of an empty segment.
pub(super) fn header(number: u64) -> Vec<u8> {
    let mut bytes = MAGIC.to_vec();
    bytes.extend(VERSION.to_le_bytes());
    bytes.extend(number.to_le_bytes());
    bytes.extend(crc32fast::hash(&bytes).to_le_bytes());
    bytes.resize(to_usize(MARKS_AT), 0);
    bytes.extend(Marks { drained_through: HEADER_BYTES, synced_through: HEADER_BYTES }.to_bytes());
    bytes.resize(to_usize(HEADER_BYTES), 0);
    bytes
}

/// Reads a header.
pub(super) fn open_header(bytes: &[u8], number: u64) -> Header {
    let Some((fixed, checksum)) = bytes.get(..24).map(|bytes| bytes.split_at(20)) else {
        return Header::Damaged;
    };
    if !fixed.starts_with(MAGIC) || crc32fast::hash(fixed).to_le_bytes() != checksum {
        return Header::Damaged;
    }
    let version = u32_of(&fixed[8..12]);
    match version {
        VERSION if u64_of(&fixed[12..]) == number => {
            Header::Known(bytes.get(to_usize(MARKS_AT)..).and_then(Marks::of))
        }
        VERSION => Header::Damaged,
        _ => Header::Newer(version),
    }
}

/// Appends a record to `bytes`; `None`, and nothing is appended, if the body is too long for one.
pub(super) fn put_record(bytes: &mut Vec<u8>, body: &[u8]) -> Option<()> {
    let length = u32::try_from(body.len()).ok()?.to_le_bytes();
    bytes.extend(RECORD_MAGIC);
    bytes.extend(length);
    bytes.extend(checksum_of(length, body).to_le_bytes());
    bytes.extend(body);
    Some(())
}

/// The length of the body that a record's first [`FRAME_BYTES`] announce; `None` if they begin no record.
pub(super) fn body_bytes(frame: &[u8]) -> Option<u32> {
    let length = frame.get(4..8)?;
    frame.starts_with(RECORD_MAGIC).then(|| u32_of(length))
}

/// Whether the body is what its record's first bytes say.
pub(super) fn is_whole(frame: &[u8], body: &[u8]) -> bool {
    let announced = body_bytes(frame).and_then(|length| usize::try_from(length).ok());
    let Some(checksum) = frame.get(8..FRAME_BYTES) else { return false };
    let length = || u32::try_from(body.len()).unwrap_or_default().to_le_bytes();
    announced == Some(body.len()) && checksum_of(length(), body).to_le_bytes() == checksum
}

/// Where the first whole record in `bytes` begins.
pub(super) fn find_record(bytes: &[u8]) -> Option<usize> {
    let begins_record = |at: &usize| {
        let (frame, behind) = bytes[*at..].split_at_checked(FRAME_BYTES).unwrap_or_default();
        let body = body_bytes(frame).and_then(|length| behind.get(..usize::try_from(length).ok()?));
        body.is_some_and(|body| is_whole(frame, body))
    };
    (0..bytes.len()).filter(|at| bytes[*at..].starts_with(RECORD_MAGIC)).find(begins_record)
}

fn checksum_of(length: [u8; 4], body: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&length);
    hasher.update(body);
    hasher.finalize()
}

fn u32_of(bytes: &[u8]) -> u32 {
    bytes.iter().rev().fold(0, |number, byte| number << 8 | u32::from(*byte))
}

fn u64_of(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

/// Of places within a header, which are small.
fn to_usize(place: u64) -> usize {
    usize::try_from(place).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_says_what_it_is() {
        let whole = header(7);
        let marks = Marks { drained_through: HEADER_BYTES, synced_through: HEADER_BYTES };
        let check = |number, expect: Header, change: &dyn Fn(&mut Vec<u8>)| {
            let mut bytes = whole.clone();
            change(&mut bytes);
            assert_eq!(open_header(&bytes, number), expect, "{bytes:?}");
        };
        assert_eq!(whole.len() as u64, HEADER_BYTES);
        check(7, Header::Known(Some(marks)), &|_| {});
        check(7, Header::Known(None), &|bytes| bytes[33] ^= 1);
        check(7, Header::Known(None), &|bytes| bytes.truncate(40));
        check(8, Header::Damaged, &|_| {});
        check(7, Header::Damaged, &|bytes| bytes.truncate(20));
        check(7, Header::Damaged, &|bytes| bytes[0] ^= 1);
        check(7, Header::Damaged, &|bytes| bytes[9] ^= 1);
        check(7, Header::Newer(2), &|bytes| {
            bytes[8] = 2;
            let checksum = crc32fast::hash(&bytes[..20]);
            bytes[20..24].copy_from_slice(&checksum.to_le_bytes());
        });
    }

    #[test]
    fn a_record_is_found_behind_damage_and_never_half() {
        let mut bytes = Vec::new();
        put_record(&mut bytes, b"first tick").unwrap();
        let second = bytes.len();
        put_record(&mut bytes, b"another").unwrap();
        assert_eq!(find_record(&bytes), Some(0));
        assert_eq!(find_record(&bytes[1..]), Some(second - 1));
        for at in 0..second {
            let mut damaged = bytes.clone();
            damaged[at] ^= 0x20;
            assert_eq!(find_record(&damaged), Some(second), "byte {at}");
        }
        for length in 0..second {
            assert_eq!(find_record(&bytes[..length]), None, "{length} bytes");
        }
    }
}
