//! What can be wrong with a payload, or with what shall become one.

use std::io;

/// Why something cannot be encoded or a payload cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum CodecError {
    /// The body is larger than the bound.
    #[error("payload would hold {bytes} bytes, allowed are {limit}")]
    TooLarge {
        /// Its size.
        bytes: usize,
        /// The bound.
        limit: usize,
    },
    /// zstd could not compress.
    #[error("compress payload: {0}")]
    Compress(#[source] io::Error),
    /// The payload ends too early.
    #[error("payload ends in the middle of a value")]
    Truncated,
    /// More of something than the bound, said in few bytes or to be encoded.
    #[error("payload holds {count} {what}, allowed are {limit}")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// How many.
        count: u64,
        /// The bound.
        limit: u64,
    },
    /// Series that break the rules of [`ChunkSeries`](super::ChunkSeries).
    #[error("a chunk cannot hold {what}")]
    NotAChunk {
        /// What it was given.
        what: &'static str,
    },
    /// A payload of another table.
    #[error("payload is {found}, not {expected}")]
    WrongForm {
        /// What it is.
        found: &'static str,
        /// What was to be read.
        expected: &'static str,
    },
    /// Written by another version.
    #[error("payload has format version {found}, this server reads up to {known}")]
    UnknownVersion {
        /// The version it has.
        found: u8,
        /// The newest version that is known.
        known: u8,
    },
    /// zstd could not decompress: the payload is damaged or too large.
    #[error("decompress payload: {0}")]
    Decompress(#[source] io::Error),
    /// The payload was changed after it was written.
    #[error("payload is damaged: checksum {stored:08x} stored, {computed:08x} computed")]
    Checksum {
        /// The checksum it carries.
        stored: u32,
        /// The checksum of its contents.
        computed: u32,
    },
    /// Neither keyframe nor delta.
    #[error("payload is of unknown kind {kind}")]
    UnknownKind {
        /// The kind it says.
        kind: u8,
    },
    /// A delta that does not follow the payload read before it.
    #[error("delta follows a payload with checksum {follows:08x}, which is not the one read before it")]
    WrongBase {
        /// The checksum of the payload it follows.
        follows: u32,
    },
    /// A group of metrics of a newer version.
    #[error("payload holds group {group} of metrics, which this server does not know")]
    UnknownGroup {
        /// Its number.
        group: u32,
    },
    /// A metric of a newer version.
    #[error("payload holds metric {metric} of group {group}, which this server does not know")]
    UnknownMetric {
        /// Its group's number.
        group: u32,
        /// Its place in the group.
        metric: u32,
    },
    /// Something that no encoder writes.
    #[error("payload holds {what}")]
    Malformed {
        /// What it is.
        what: &'static str,
    },
    /// Bytes after the end.
    #[error("payload has {bytes} bytes after its end")]
    Trailing {
        /// How many.
        bytes: usize,
    },
}
