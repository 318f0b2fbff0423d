//! One segment on disk: appended to and synced, read from the front, and looked through after a restart.

use std::{
    fs::File,
    io,
    os::unix::fs::{FileExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use super::{
    Damage, SpoolError,
    segment::{
        FRAME_BYTES, HEADER_BYTES, Header, MARKS_AT, Marks, body_bytes, find_record, header, is_whole,
        open_header,
    },
};

/// An open segment.
#[derive(Debug)]
pub(super) struct SegmentFile {
    pub(super) number: u64,
    path: PathBuf,
    file: File,
    /// Records before this place are in the store.
    drained_through: u64,
    /// Where the last synced record ends.
    end: u64,
    /// Nothing is appended any more: what a write that failed left could not be cut off.
    is_closed: bool,
}

/// What is at a place.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// A record with this body, which ends at `next`.
    Record { body: Vec<u8>, next: u64 },
    /// No record until `next`.
    Damage { next: u64 },
    /// The end.
    End,
}

impl SegmentFile {
    /// The number in a segment's file name.
    pub(super) fn number_in(name: &str) -> Option<u64> {
        let digits = name.strip_prefix("segment-")?;
        (digits.len() == 12).then(|| digits.parse().ok())?
    }

    fn path_of(dir: &Path, number: u64) -> PathBuf {
        dir.join(format!("segment-{number:012}"))
    }

    /// Makes an empty one, which is there also after a power failure.
    pub(super) fn create(dir: &Path, number: u64) -> Result<Self, SpoolError> {
        let path = Self::path_of(dir, number);
        let make = || {
            let file = File::options().read(true).write(true).create_new(true).mode(0o600).open(&path)?;
            let written = file
                .write_all_at(&header(number), 0)
                .and_then(|()| file.sync_all())
                .and_then(|()| File::open(dir)?.sync_all());
            // Half a header would be taken for damage.
            written.map(|()| file).inspect_err(|_| drop(std::fs::remove_file(&path)))
        };
        let file = make().map_err(SpoolError::during("make", &path))?;
        Ok(Self { number, path, file, drained_through: HEADER_BYTES, end: HEADER_BYTES, is_closed: false })
    }

    /// Opens one that an earlier server left: gives every record's body to `found`, cuts a torn tail off, and
    /// reports what is damaged before it.
    pub(super) fn open(
        dir: &Path,
        number: u64,
        mut found: impl FnMut(Vec<u8>),
        damage: &mut Vec<Damage>,
    ) -> Result<Self, SpoolError> {
        let path = Self::path_of(dir, number);
        let failed = |operation| SpoolError::during(operation, &path);
        let file = File::options().read(true).write(true).open(&path).map_err(failed("open"))?;
        let length = file.metadata().map_err(failed("read"))?.len();
        let mut start = vec![0; usize::try_from(length.min(HEADER_BYTES)).unwrap_or_default()];
        file.read_exact_at(&mut start, 0).map_err(failed("read"))?;
        let marks = match open_header(&start, number) {
            Header::Known(marks) => marks,
            Header::Newer(version) => return Err(SpoolError::Newer { path, version }),
            Header::Damaged => {
                let what = "its header".to_owned();
                damage.push(Damage { path: path.clone(), at: 0, bytes: start.len() as u64, what });
                None
            }
        };
        let marks = marks.filter(|marks| (HEADER_BYTES..=length).contains(&marks.drained_through));
        let synced_through = marks.map_or(HEADER_BYTES, |marks| marks.synced_through);
        let drained_through = marks.map_or(HEADER_BYTES, |marks| marks.drained_through);
        let mut segment = Self { number, path, file, drained_through, end: length, is_closed: false };
        let mut at = drained_through;
        loop {
            at = match segment.read(at)? {
                Found::Record { body, next } => {
                    found(body);
                    next
                }
                Found::Damage { next } if next == length && at >= synced_through => break,
                Found::Damage { next } => {
                    damage.push(segment.damage(at, next, "no record can be read"));
                    next
                }
                Found::End => break,
            };
        }
        segment.cut_tail(at)?;
        Ok(segment)
    }

    /// Ends the segment here, and has on disk what is before.
    fn cut_tail(&mut self, end: u64) -> Result<(), SpoolError> {
        if end < self.end {
            let bytes = self.end - end;
            tracing::info!(segment = %self.path.display(), bytes, "cutting off what a write left unfinished");
        }
        self.end = end.max(HEADER_BYTES);
        self.file.set_len(self.end).map_err(SpoolError::during("cut", &self.path))?;
        // A killed server may have written what it did not come to sync.
        self.file.sync_data().map_err(SpoolError::during("sync", &self.path))
    }

    pub(super) fn damage(&self, at: u64, next: u64, what: &str) -> Damage {
        Damage { path: self.path.clone(), at, bytes: next - at, what: what.to_owned() }
    }

    /// Adds whole records, and returns when they are on disk. If that fails, none of them is there.
    pub(super) fn append(&mut self, records: &[u8]) -> Result<(), SpoolError> {
        let written = self.file.write_all_at(records, self.end).and_then(|()| self.file.sync_data());
        if let Err(source) = written {
            // Of pages that could not be synced, nobody knows what is on disk: they are given up.
            self.is_closed = self.file.set_len(self.end).is_err();
            return Err(SpoolError::during("write", &self.path)(source));
        }
        self.end += records.len() as u64;
        self.write_marks();
        Ok(())
    }

    /// What is at a place, as far as it was synced.
    pub(super) fn read(&self, at: u64) -> Result<Found, SpoolError> {
        self.try_read(at).map_err(SpoolError::during("read", &self.path))
    }

    fn try_read(&self, at: u64) -> io::Result<Found> {
        if at >= self.end {
            return Ok(Found::End);
        }
        let mut frame = [0; FRAME_BYTES];
        let body_at = at + FRAME_BYTES as u64;
        if body_at <= self.end {
            self.file.read_exact_at(&mut frame, at)?;
            let next = body_bytes(&frame).map(|length| body_at + u64::from(length));
            if let Some(next) = next.filter(|next| *next <= self.end) {
                let body = self.bytes(body_at, next)?;
                if is_whole(&frame, &body) {
                    return Ok(Found::Record { body, next });
                }
            }
        }
        // Not the same place again: it is none.
        let behind = self.bytes(at + 1, self.end)?;
        let next = find_record(&behind).map_or(self.end, |found| at + 1 + found as u64);
        Ok(Found::Damage { next })
    }

    fn bytes(&self, from: u64, until: u64) -> io::Result<Vec<u8>> {
        let length = usize::try_from(until - from).map_err(|_| io::ErrorKind::OutOfMemory)?;
        let mut bytes = vec![0; length];
        self.file.read_exact_at(&mut bytes, from)?;
        Ok(bytes)
    }

    /// Notes that records before this place are in the store.
    pub(super) fn drained(&mut self, through: u64) {
        self.drained_through = through;
        self.write_marks();
    }

    /// Without them, more is drained again, which stores nothing twice.
    fn write_marks(&self) {
        let marks = Marks { drained_through: self.drained_through, synced_through: self.end };
        if let Err(error) = self.file.write_all_at(&marks.to_bytes(), MARKS_AT) {
            tracing::debug!(segment = %self.path.display(), %error, "cannot write a segment's marks");
        }
    }

    pub(super) fn drained_through(&self) -> u64 {
        self.drained_through
    }

    pub(super) fn is_drained(&self) -> bool {
        self.drained_through >= self.end
    }

    pub(super) fn bytes_used(&self) -> u64 {
        self.end
    }

    pub(super) fn is_closed(&self) -> bool {
        self.is_closed
    }

    /// Removes the file. One that stays is drained again by the next server, which stores nothing twice.
    pub(super) fn remove(self) {
        if let Err(error) = std::fs::remove_file(&self.path) {
            tracing::warn!(segment = %self.path.display(), %error, "cannot remove a segment that was drained");
        }
    }
}
