//! Loads of anonymous memory. Only safe mappings: of memory that no file is behind.

use std::{
    collections::VecDeque,
    fs,
    io::{Read as _, Write as _},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};
use memmap2::{Advice, MmapMut};
use rustix::param::page_size;

use super::{MIB, Place, Round};

/// Writes to every page.
fn touch(map: &mut [u8]) {
    for page in map.chunks_mut(page_size()) {
        page[0] = page[0].wrapping_add(1);
    }
}

fn filled(size: usize, advice: Advice) -> Result<MmapMut> {
    let mut map = MmapMut::map_anon(size)?;
    map.advise(advice)?;
    touch(&mut map);
    Ok(map)
}

fn rotating(size: usize, maps_max: usize, advice: Advice) -> Round {
    let mut maps = VecDeque::new();
    Box::new(move || {
        maps.push_back(filled(size, advice)?);
        if maps.len() > maps_max {
            maps.pop_front();
        }
        Ok(())
    })
}

#[expect(clippy::unnecessary_wraps, reason = "one of the loads")]
pub(super) fn anonymous(_: &Place) -> Result<Round> {
    Ok(rotating(2 * MIB, 2, Advice::NoHugePage))
}

#[expect(clippy::unnecessary_wraps, reason = "one of the loads")]
pub(super) fn huge(_: &Place) -> Result<Round> {
    Ok(rotating(6 * MIB, 1, Advice::HugePage))
}

pub(super) fn thrash(_: &Place) -> Result<Round> {
    const STEP: usize = 3 * MIB;
    let mut map = filled(12 * MIB, Advice::NoHugePage)?;
    let mut at = 0;
    Ok(Box::new(move || {
        touch(&mut map[at..at + STEP]);
        at = (at + STEP) % map.len();
        Ok(())
    }))
}

pub(super) fn fill(_: &Place) -> Result<Round> {
    filled(64 * MIB, Advice::NoHugePage)?;
    anyhow::bail!("nothing kept it from filling 64 MiB")
}

pub(super) fn locked(_: &Place) -> Result<Round> {
    let mut map = filled(4 * MIB, Advice::NoHugePage)?;
    map.lock()?;
    Ok(Box::new(move || {
        touch(&mut map);
        Ok(())
    }))
}

/// Gives advice on memory that it filled. In another language, because in Rust there is no safe way to do it:
/// what is advised upon may change under a reference.
const ADVISE: &str = r#"
    $memory = "x" x (8 << 20);
    $page = (unpack("Q", pack("P", $memory)) + 4095) & ~4095;
    $madvise = `uname -m` =~ /x86_64/ ? 28 : 233;
    syscall($madvise, $page, 7 << 20, $ARGV[0] + 0) == 0 or die "madvise: $!";
    $| = 1;
    print "done\n";
    <STDIN>;
"#;

/// Advice as the kernel numbers it (include/uapi/asm-generic/mman-common.h).
const MADV_FREE: &str = "8";
const MADV_COLD: &str = "20";

/// Each round: fills memory, advises, does something while the memory is there, and lets it go.
fn advised(advice: &'static str, meanwhile: impl Fn() + 'static) -> Round {
    Box::new(move || {
        let mut perl = Command::new("perl");
        perl.args(["-e", ADVISE, advice]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut perl = perl.spawn().context("run perl")?;
        let mut said = [0; 5];
        perl.stdout.take().context("perl's pipe")?.read_exact(&mut said)?;
        meanwhile();
        perl.stdin.take().context("perl's pipe")?.write_all(b"\n")?;
        ensure!(perl.wait()?.success(), "perl failed");
        Ok(())
    })
}

#[expect(clippy::unnecessary_wraps, reason = "one of the loads")]
pub(super) fn cold(_: &Place) -> Result<Round> {
    Ok(advised(MADV_COLD, || ()))
}

pub(super) fn lazy_free(place: &Place) -> Result<Round> {
    let reclaim = place.cgroups.first().context("a load of a cgroup")?.join("memory.reclaim");
    Ok(advised(MADV_FREE, move || {
        if reclaim.exists() {
            // That less than so much could be reclaimed is no matter.
            let _ = fs::write(&reclaim, "6M");
        }
    }))
}
