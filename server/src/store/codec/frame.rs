//! The envelope of a payload: version, checksum, compression.
//!
//! `version (1 byte) · crc32 of version and body (4 bytes, little endian) · zstd(body)`.
//! Knows nothing of what a body means.

use std::{cell::RefCell, io};

use zstd::bulk::Decompressor;

use super::CodecError;

/// The only version so far. Another layout of body or envelope takes the next number.
const VERSION: u8 = 1;

/// zstd's fastest ordinary level: payloads are small and every tick pays.
const COMPRESSION_LEVEL: i32 = 1;

/// The most bytes a body may have, compressed or not: some 100,000 cgroups with every metric there is, or
/// 300,000 with what a tick has unless it is told otherwise.
pub(super) const BODY_BYTES_MAX: usize = 32 << 20;

/// The checksum of a body; a delta names that of the payload it follows.
pub(super) type Checksum = u32;

fn checksum_of(version: u8, body: &[u8]) -> Checksum {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&[version]);
    hasher.update(body);
    hasher.finalize()
}

/// Closes a body into a payload.
pub(super) fn seal(body: &[u8]) -> Result<(Vec<u8>, Checksum), CodecError> {
    if body.len() > BODY_BYTES_MAX {
        return Err(CodecError::TooLarge { bytes: body.len(), limit: BODY_BYTES_MAX });
    }
    let checksum = checksum_of(VERSION, body);
    let mut payload = vec![VERSION];
    payload.extend(checksum.to_le_bytes());
    payload.extend(zstd::bulk::compress(body, COMPRESSION_LEVEL).map_err(CodecError::Compress)?);
    Ok((payload, checksum))
}

/// A context for each thread: making one takes longer than to decompress an ordinary delta.
fn decompress(compressed: &[u8]) -> io::Result<Vec<u8>> {
    thread_local! {
        static CONTEXT: RefCell<Option<Decompressor<'static>>> = const { RefCell::new(None) };
    }
    CONTEXT.with_borrow_mut(|context| {
        let context = match context {
            Some(context) => context,
            None => context.insert(Decompressor::new()?),
        };
        context.decompress(compressed, BODY_BYTES_MAX)
    })
}

/// Opens a payload and checks that its body is what was sealed.
pub(super) fn open(payload: &[u8]) -> Result<(Vec<u8>, Checksum), CodecError> {
    let (&version, rest) = payload.split_first().ok_or(CodecError::Truncated)?;
    if version != VERSION {
        return Err(CodecError::UnknownVersion { found: version, known: VERSION });
    }
    let (stored, compressed) = rest.split_first_chunk().ok_or(CodecError::Truncated)?;
    let stored = Checksum::from_le_bytes(*stored);
    let body = decompress(compressed).map_err(CodecError::Decompress)?;
    let computed = checksum_of(version, &body);
    if stored != computed {
        return Err(CodecError::Checksum { stored, computed });
    }
    Ok((body, computed))
}
