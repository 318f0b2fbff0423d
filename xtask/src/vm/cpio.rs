//! The archive that a kernel unpacks as its first filesystem: cpio, format newc
//! (Documentation/driver-api/early-userspace/buffer-format.rst).
//!
//! It must not know what is inside.

use std::collections::BTreeSet;

/// File type bits of a mode (inode(7)).
const DIRECTORY: u32 = 0o040_000;
const REGULAR: u32 = 0o100_000;

/// Names and contents begin at multiples of this.
const ALIGNMENT: usize = 4;

/// The name of the entry that ends an archive.
const TRAILER: &str = "TRAILER!!!";

/// An archive in memory. Everything in it belongs to root.
#[derive(Default)]
pub(super) struct Archive {
    bytes: Vec<u8>,
    directories: BTreeSet<String>,
    entries: u32,
}

impl Archive {
    /// Adds a directory, with those above it, unless it is there.
    pub(super) fn directory(&mut self, path: &str) {
        let path = path.trim_matches('/');
        if path.is_empty() || self.directories.contains(path) {
            return;
        }
        self.parent_of(path);
        self.directories.insert(path.to_owned());
        self.entry(path, DIRECTORY | 0o755, &[]);
    }

    /// Adds a file that everybody may read and, if it is a program, run; with the directories above it.
    pub(super) fn file(&mut self, path: &str, is_program: bool, content: &[u8]) {
        let path = path.trim_start_matches('/');
        self.parent_of(path);
        self.entry(path, REGULAR | if is_program { 0o755 } else { 0o644 }, content);
    }

    /// The whole archive.
    pub(super) fn finish(mut self) -> Vec<u8> {
        self.entry(TRAILER, 0, &[]);
        self.bytes
    }

    fn parent_of(&mut self, path: &str) {
        if let Some((parent, _)) = path.rsplit_once('/') {
            self.directory(parent);
        }
    }

    fn entry(&mut self, name: &str, mode: u32, content: &[u8]) {
        self.entries += 1;
        let links = 1;
        let lengths = [content.len(), 0, 0, 0, 0, name.len() + 1, 0];
        let mut header =
            format!("070701{:08X}{mode:08X}{:08X}{:08X}{links:08X}{:08X}", self.entries, 0, 0, 0);
        // File size, four device numbers, the name's length with its NUL, a checksum that newc leaves 0.
        header.extend(lengths.map(|length| format!("{length:08X}")));
        self.bytes.extend(header.bytes());
        self.bytes.extend(name.bytes());
        self.bytes.push(0);
        self.align();
        self.bytes.extend(content);
        self.align();
    }

    fn align(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(ALIGNMENT), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads an archive as init/initramfs.c does: (name, mode, content).
    fn read(archive: &[u8]) -> Vec<(String, u32, Vec<u8>)> {
        let mut entries = Vec::new();
        let mut at = 0;
        loop {
            let field = |index: usize| {
                let start = at + 6 + 8 * index;
                let digits = std::str::from_utf8(&archive[start..start + 8]).unwrap();
                usize::from_str_radix(digits, 16).unwrap()
            };
            assert_eq!(&archive[at..at + 6], b"070701", "a header at {at}");
            let (mode, length, name_length) = (field(1), field(6), field(11));
            let name = &archive[at + 110..at + 110 + name_length - 1];
            assert_eq!(archive[at + 110 + name_length - 1], 0, "the name ends with NUL");
            let content = (at + 110 + name_length).next_multiple_of(4);
            let name = String::from_utf8(name.to_vec()).unwrap();
            if name == TRAILER {
                assert_eq!(content, archive.len(), "nothing follows the trailer");
                return entries;
            }
            entries.push((name, u32::try_from(mode).unwrap(), archive[content..content + length].to_vec()));
            at = (content + length).next_multiple_of(4);
        }
    }

    #[test]
    fn directories_come_once_and_before_what_is_in_them() {
        let mut archive = Archive::default();
        archive.file("/lib/deep/libc.so", true, b"12345");
        archive.file("/lib/deep/text", false, b"");
        archive.directory("/lib");
        archive.directory("/tmp/");
        archive.file("/init", true, b"#!");
        let expect = [
            ("lib", 0o040_755, &b""[..]),
            ("lib/deep", 0o040_755, b""),
            ("lib/deep/libc.so", 0o100_755, b"12345"),
            ("lib/deep/text", 0o100_644, b""),
            ("tmp", 0o040_755, b""),
            ("init", 0o100_755, b"#!"),
        ];
        let read = read(&archive.finish());
        let read: Vec<_> =
            read.iter().map(|(name, mode, content)| (name.as_str(), *mode, content.as_slice())).collect();
        assert_eq!(read, expect);
    }
}
