//! Which values of a column were measured, as runs: one byte where all were.
//!
//! `count of runs · lengths`; no run at all says that every value is present. Runs alternate, the first is of absent
//! values and may be of length 0.

use super::super::{
    CodecError,
    varint::{Reader, put_varint},
};

/// Which values are present.
#[derive(Debug)]
pub(super) enum Presence {
    /// All of so many.
    Whole(usize),
    /// Runs, each with whether its values are present.
    Runs(Vec<(bool, usize)>),
}

impl Presence {
    /// How many are present.
    pub(super) fn present(&self) -> usize {
        match self {
            Self::Whole(count) => *count,
            Self::Runs(runs) => runs.iter().filter(|(is_present, _)| *is_present).map(|(_, len)| len).sum(),
        }
    }
}

pub(super) fn put_presence(out: &mut Vec<u8>, values: &[Option<u64>]) {
    if values.iter().all(Option::is_some) {
        return put_varint(out, 0);
    }
    let mut runs: Vec<u64> = Vec::new();
    if values.first().is_some_and(Option::is_some) {
        runs.push(0);
    }
    runs.extend(values.chunk_by(|left, right| left.is_some() == right.is_some()).map(|run| run.len() as u64));
    put_varint(out, runs.len() as u64);
    for len in runs {
        put_varint(out, len);
    }
}

pub(super) fn read_presence(reader: &mut Reader<'_>, count: usize) -> Result<Presence, CodecError> {
    const WRONG_SUM: CodecError =
        CodecError::Malformed { what: "runs of values for more or fewer ticks than it has" };
    let runs_count = reader.varint()?;
    if runs_count == 0 {
        return Ok(Presence::Whole(count));
    }
    // No capacity by what the payload says: a run is a byte at least, and reading ends with them.
    let mut runs = Vec::new();
    let mut left = count;
    for at in 0..runs_count {
        let len = usize::try_from(reader.varint()?).map_err(|_| WRONG_SUM)?;
        if len == 0 && at > 0 {
            return Err(CodecError::Malformed { what: "an empty run of values" });
        }
        left = left.checked_sub(len).ok_or(WRONG_SUM)?;
        runs.push((at % 2 == 1, len));
    }
    if left > 0 { Err(WRONG_SUM) } else { Ok(Presence::Runs(runs)) }
}
