//! The envelope of a payload: form, checksum, compression.
//!
//! `form (1 byte) · crc32 of all other bytes (4 bytes, little endian) · zstd(body)`. The form's high half says what
//! the payload is, its low half in which version. Knows nothing of what a body means.

use std::{cell::RefCell, io};

use zstd::bulk::{Compressor, Decompressor};

use super::CodecError;

/// The most bytes a body may have, compressed or not: some 100,000 cgroups with every metric there is, or
/// 300,000 with what a tick has unless it is told otherwise.
pub(super) const BODY_BYTES_MAX: usize = 32 << 20;

/// The version of ticks whose checksum was one of form and body: bits that zstd does not look at could
/// change and go unnoticed.
const CHECKSUM_OF_BODY: u8 = 1;

/// The checksum of a payload; a delta names that of the payload it follows.
pub(super) type Checksum = u32;

/// What a payload is.
#[derive(Debug)]
pub(super) struct Form {
    name: &'static str,
    /// The upper half of the first byte.
    mark: u8,
    /// The lower half of what is written. Each layout of body or envelope takes the next number.
    version: u8,
}

/// zstd's fastest ordinary level: bodies are dense already, and two levels on saves a hundredth of a chunk for half as
/// much time again.
const COMPRESSION_LEVEL: i32 = 1;

thread_local! {
    /// What zstd works with is larger than most payloads, and making it takes longer than they do.
    static COMPRESSOR: RefCell<Option<Compressor<'static>>> = const { RefCell::new(None) };
    static DECOMPRESSOR: RefCell<Decompressor<'static>> = RefCell::default();
}

/// A tick of a host.
pub(super) const HEAD: Form = Form { name: "a tick", mark: 0x00, version: 2 };

/// Series of cgroups. No single bit makes a tick's first byte of a chunk's, nor one version of another.
pub(super) const CHUNK: Form = Form { name: "a chunk", mark: 0x30, version: 1 };

impl Form {
    /// Closes a body into a payload.
    pub(super) fn seal(&self, body: &[u8]) -> Result<(Vec<u8>, Checksum), CodecError> {
        if body.len() > BODY_BYTES_MAX {
            return Err(CodecError::TooLarge { bytes: body.len(), limit: BODY_BYTES_MAX });
        }
        let compressed = compress(body).map_err(CodecError::Compress)?;
        Ok(self.envelop(&compressed))
    }

    /// Puts form and checksum before a body that is compressed already.
    pub(super) fn envelop(&self, compressed: &[u8]) -> (Vec<u8>, Checksum) {
        let form = self.mark | self.version;
        let checksum = checksum_of(form, compressed);
        let mut payload = Vec::with_capacity(1 + size_of::<Checksum>() + compressed.len());
        payload.push(form);
        payload.extend(checksum.to_le_bytes());
        payload.extend(compressed);
        (payload, checksum)
    }

    /// Opens a payload and checks that it is what was sealed.
    pub(super) fn open(&self, payload: &[u8]) -> Result<(Vec<u8>, Checksum), CodecError> {
        let (&form, rest) = payload.split_first().ok_or(CodecError::Truncated)?;
        let version = self.version_of(form)?;
        let (stored, compressed) = rest.split_first_chunk().ok_or(CodecError::Truncated)?;
        let stored = Checksum::from_le_bytes(*stored);
        let is_of_body = self.mark == HEAD.mark && version == CHECKSUM_OF_BODY;
        if !is_of_body {
            verify(stored, checksum_of(form, compressed))?;
        }
        let body = decompress(compressed).map_err(CodecError::Decompress)?;
        if is_of_body {
            verify(stored, checksum_of(form, &body))?;
        }
        Ok((body, stored))
    }

    fn version_of(&self, form: u8) -> Result<u8, CodecError> {
        let (mark, version) = (form & 0xf0, form & 0x0f);
        if mark != self.mark {
            let known = [HEAD, CHUNK].into_iter().find(|known| known.mark == mark);
            let found = known.map_or("of unknown form", |known| known.name);
            return Err(CodecError::WrongForm { found, expected: self.name });
        }
        if !(1..=self.version).contains(&version) {
            return Err(CodecError::UnknownVersion { found: version, known: self.version });
        }
        Ok(version)
    }
}

fn compress(body: &[u8]) -> io::Result<Vec<u8>> {
    COMPRESSOR.with_borrow_mut(|compressor| match compressor {
        Some(compressor) => compressor.compress(body),
        None => compressor.insert(Compressor::new(COMPRESSION_LEVEL)?).compress(body),
    })
}

fn decompress(compressed: &[u8]) -> io::Result<Vec<u8>> {
    DECOMPRESSOR.with_borrow_mut(|decompressor| decompressor.decompress(compressed, BODY_BYTES_MAX))
}

fn checksum_of(form: u8, bytes: &[u8]) -> Checksum {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&[form]);
    hasher.update(bytes);
    hasher.finalize()
}

fn verify(stored: Checksum, computed: Checksum) -> Result<(), CodecError> {
    if stored == computed { Ok(()) } else { Err(CodecError::Checksum { stored, computed }) }
}

/// Closes the body of a tick.
pub(super) fn seal(body: &[u8]) -> Result<(Vec<u8>, Checksum), CodecError> {
    HEAD.seal(body)
}

/// Opens the payload of a tick.
pub(super) fn open(payload: &[u8]) -> Result<(Vec<u8>, Checksum), CodecError> {
    HEAD.open(payload)
}
