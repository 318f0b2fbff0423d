//! Loads of processes, of their threads, sockets and descriptors, and of cgroups that come and go.

use std::{
    fs,
    io::{ErrorKind, Read as _, Write as _},
    net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket},
    path::PathBuf,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use rustix::{
    io::fcntl_dupfd_cloexec,
    process::{Resource, Rlimit, setrlimit},
};

use super::{Load, MIB, Place, Round, command};

/// Longer than what a throttled cgroup may use of a period.
const BUSY: Duration = Duration::from_millis(20);

#[expect(clippy::unnecessary_wraps, reason = "one of the loads")]
pub(super) fn busy(_: &Place) -> Result<Round> {
    Ok(Box::new(|| {
        let until = Instant::now() + BUSY;
        while Instant::now() < until {
            std::hint::spin_loop();
        }
        Ok(())
    }))
}

#[expect(clippy::unnecessary_wraps, reason = "one of the loads")]
pub(super) fn fork(_: &Place) -> Result<Round> {
    let script = "i=0; while [ $i -lt 10 ]; do (:); i=$((i + 1)); done";
    Ok(Box::new(move || {
        ensure!(Command::new("sh").args(["-c", script]).status()?.success(), "sh failed");
        Ok(())
    }))
}

pub(super) fn threads(_: &Place) -> Result<Round> {
    for _ in 0..30 {
        thread::Builder::new().spawn(|| {
            loop {
                thread::park();
            }
        })?;
    }
    Ok(Box::new(|| {
        let short: Vec<_> = (0..4).map(|_| thread::spawn(|| ())).collect();
        for thread in short {
            thread.join().ok().context("a thread panicked")?;
        }
        Ok(())
    }))
}

pub(super) fn sockets(_: &Place) -> Result<Round> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let mut pairs = Vec::new();
    for _ in 0..4 {
        let near = TcpStream::connect(listener.local_addr()?)?;
        let (far, _) = listener.accept()?;
        near.set_nonblocking(true)?;
        far.set_nonblocking(true)?;
        pairs.push((near, far));
    }
    let mut block = vec![7; MIB / 8];
    Ok(Box::new(move || {
        for (near, far) in &mut pairs {
            for done in [far.read(&mut block[..MIB / 32]), near.write(&block)] {
                match done {
                    Err(error) if error.kind() != ErrorKind::WouldBlock => return Err(error.into()),
                    _ => {}
                }
            }
        }
        Ok(())
    }))
}

pub(super) fn file_table(_: &Place) -> Result<Round> {
    /// A table of so many is larger than what kmalloc gives.
    const DESCRIPTORS: u32 = 1_000_000;
    let limit = Some(u64::from(DESCRIPTORS) + 1);
    setrlimit(Resource::Nofile, Rlimit { current: limit, maximum: limit })?;
    let last = fcntl_dupfd_cloexec(std::io::stdin(), DESCRIPTORS.cast_signed())?;
    Ok(Box::new(move || {
        drop(fcntl_dupfd_cloexec(&last, 3)?);
        Ok(())
    }))
}

/// Kills are rare, for the kernel writes a page about each.
const KILL_PAUSE: Duration = Duration::from_secs(4);

#[expect(clippy::unnecessary_wraps, reason = "one of the loads")]
pub(super) fn out_of_memory(place: &Place) -> Result<Round> {
    let place = place.clone();
    let mut last: Option<Instant> = None;
    Ok(Box::new(move || {
        if last.is_none_or(|last| last.elapsed() > KILL_PAUSE) {
            last = Some(Instant::now());
            let status = command(Load::Fill, &place)?.status()?;
            ensure!(
                !status.success() && status.code().is_none(),
                "it was to be killed, and ended with {status}"
            );
        }
        Ok(())
    }))
}

/// So many may be dying at a time.
const DYING_MAX: usize = 8;

pub(super) fn dying(place: &Place) -> Result<Round> {
    let below = |name: &str| -> Vec<PathBuf> { place.cgroups.iter().map(|it| it.join(name)).collect() };
    let home = below("home");
    for cgroup in &home {
        fs::create_dir(cgroup)?;
    }
    Place::join(&home)?;
    let mut left_behind = Vec::new();
    let place = place.clone();
    Ok(Box::new(move || {
        if left_behind.len() == DYING_MAX {
            return Ok(());
        }
        let name = format!("dying-{}", left_behind.len());
        let short_lived: Vec<_> = place.cgroups.iter().map(|it| it.join(&name)).collect();
        for cgroup in &short_lived {
            fs::create_dir(cgroup)?;
        }
        Place::join(&short_lived)?;
        // Its page cache keeps a memory cgroup, and a socket a v2 cgroup.
        fs::write(place.tmpfs.join(&name), vec![7; MIB / 4])?;
        left_behind.push(UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?);
        Place::join(&home)?;
        for cgroup in &short_lived {
            fs::remove_dir(cgroup)?;
        }
        Ok(())
    }))
}
