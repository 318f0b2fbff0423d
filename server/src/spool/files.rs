//! The spool's directory: its segments in order, appended to at the end and drained from the front.

use std::{
    collections::VecDeque,
    fs::{self, DirBuilder, File, TryLockError},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use super::{
    Damage, SpoolError,
    segment::HEADER_BYTES,
    segment_file::{Found, SegmentFile},
};

/// A segment that has so many bytes is not appended to: what is drained is freed by the segment.
const SEGMENT_BYTES: u64 = 16 << 20;

/// A small spool has at least so many segments, for the same reason.
const SEGMENTS_MIN: u64 = 4;

/// A place between records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    segment: u64,
    at: u64,
}

impl Place {
    pub(super) fn moved_to(self, at: u64) -> Self {
        Self { at, ..self }
    }
}

/// What was found, and where.
#[derive(Debug)]
pub(super) struct Read {
    pub(super) at: Place,
    pub(super) found: Found,
}

/// The segments. This process alone has them.
#[derive(Debug)]
pub(super) struct Files {
    dir: PathBuf,
    /// Held for its lock, which ends with the process however that ends.
    lock: File,
    segments: VecDeque<SegmentFile>,
    next_number: u64,
    bytes_max: u64,
}

impl Drop for Files {
    fn drop(&mut self) {
        // Closing is not enough: a process that is being spawned shares the file until it executes.
        let _ = self.lock.unlock();
    }
}

impl Files {
    /// Opens the directory, made if it is missing, and gives every record that is not drained to `found`.
    pub(super) fn open(
        dir: &Path,
        bytes_max: u64,
        mut found: impl FnMut(Vec<u8>),
        damage: &mut Vec<Damage>,
    ) -> Result<Self, SpoolError> {
        DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(SpoolError::during("make", dir))?;
        let lock = lock(dir)?;
        let entries = fs::read_dir(dir).map_err(SpoolError::during("read", dir))?;
        let mut numbers = Vec::new();
        for entry in entries {
            let name = entry.map_err(SpoolError::during("read", dir))?.file_name();
            numbers.extend(name.to_str().and_then(SegmentFile::number_in));
        }
        numbers.sort_unstable();
        let next_number = numbers.last().map_or(1, |last| last + 1);
        let mut segments = VecDeque::new();
        for number in numbers {
            segments.push_back(SegmentFile::open(dir, number, &mut found, damage)?);
        }
        let mut files = Self { dir: dir.to_owned(), lock, segments, next_number, bytes_max };
        files.remove_drained();
        Ok(files)
    }

    pub(super) fn bytes(&self) -> u64 {
        self.segments.iter().map(SegmentFile::bytes_used).sum()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.segments.is_empty()
    }

    /// Adds whole records, and returns when they are on disk. If that fails, none of them is there.
    pub(super) fn append(&mut self, records: &[u8]) -> Result<(), SpoolError> {
        let segment_bytes = SEGMENT_BYTES.min(self.bytes_max / SEGMENTS_MIN);
        let has_room = |last: &SegmentFile| !last.is_closed() && last.bytes_used() < segment_bytes;
        let begins_segment = !self.segments.back().is_some_and(has_room);
        let header_bytes = if begins_segment { HEADER_BYTES } else { 0 };
        if self.bytes() + header_bytes + records.len() as u64 > self.bytes_max {
            return Err(SpoolError::Full { bytes_max: self.bytes_max });
        }
        if begins_segment {
            let number = self.next_number;
            self.segments.push_back(SegmentFile::create(&self.dir, number)?);
            self.next_number += 1;
        }
        let appended = self.segments.back_mut().map_or(Ok(()), |last| last.append(records));
        // One that was begun for nothing is no segment to be drained.
        appended.inspect_err(|_| self.remove_drained())
    }

    /// Where the first record is that was not drained; `None` if there is no segment.
    pub(super) fn front(&self) -> Option<Place> {
        let first = self.segments.front()?;
        Some(Place { segment: first.number, at: first.drained_through() })
    }

    /// What is at a place, or at the beginning of the segment behind it.
    pub(super) fn read(&self, at: Place) -> Result<Read, SpoolError> {
        let Some(segment) = self.segment(at.segment) else { return Ok(Read { at, found: Found::End }) };
        let found = segment.read(at.at)?;
        let later = self.segments.iter().find(|later| later.number > at.segment);
        match (&found, later) {
            (Found::End, Some(later)) => {
                self.read(Place { segment: later.number, at: later.drained_through() })
            }
            _ => Ok(Read { at, found }),
        }
    }

    /// Tells of damage from a place on.
    pub(super) fn damage(&self, at: Place, next: u64, what: &str) -> Option<Damage> {
        Some(self.segment(at.segment)?.damage(at.at, next, what))
    }

    fn segment(&self, number: u64) -> Option<&SegmentFile> {
        self.segments.iter().find(|segment| segment.number == number)
    }

    /// Notes that everything before this place is in the store, and frees what that takes.
    pub(super) fn drained(&mut self, through: Place) {
        for segment in self.segments.iter_mut().filter(|segment| segment.number < through.segment) {
            segment.drained(segment.bytes_used());
        }
        if let Some(segment) = self.segments.iter_mut().find(|segment| segment.number == through.segment) {
            segment.drained(through.at);
        }
        self.remove_drained();
    }

    fn remove_drained(&mut self) {
        while self.segments.front().is_some_and(SegmentFile::is_drained) {
            if let Some(segment) = self.segments.pop_front() {
                segment.remove();
            }
        }
    }
}

fn lock(dir: &Path) -> Result<File, SpoolError> {
    let path = dir.join("lock");
    let opened = File::options().create(true).truncate(false).write(true).mode(0o600).open(&path);
    let lock = opened.map_err(SpoolError::during("open", &path))?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(TryLockError::WouldBlock) => Err(SpoolError::InUse { dir: dir.to_owned() }),
        Err(TryLockError::Error(source)) => Err(SpoolError::during("lock", &path)(source)),
    }
}
