//! The kernel's iterator on its own, as a thread of its own walks with it: that thread sleeps between
//! walks as the agent's walker does, and so begins each with caches as cold.

use std::{
    fs::File,
    os::fd::AsFd as _,
    sync::mpsc::{Receiver, Sender, channel},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use cgfleet_agent::kernel::{KernelError, Noop, NoopWalk, with_loader};

use super::{
    interleaved::Interleaved,
    trees::{Grown, Shape},
    walk::{PER_CGROUP, per_cgroup_ns},
};

/// The figure's name.
pub(super) const NOOP: &str = "no-op iterator";

/// Adds walks of the tree that do nothing.
pub(super) fn add_noop(to: &mut Interleaved<'_>, shape: &Shape, grown: &Grown) -> Result<()> {
    let cgroups = shape.cgroups();
    let (requests, answers) = start(with_loader(Noop::load)?, File::open(grown.tree.directory(""))?)?;
    to.add(NOOP, PER_CGROUP, move || {
        requests.send(())?;
        let walk = answers.recv()??;
        ensure!(walk.cgroups_visited == u64::from(cgroups), "not the whole tree: {walk:?}");
        Ok(per_cgroup_ns(Duration::from_nanos(walk.walk_ns), cgroups))
    });
    Ok(())
}

type Walked = Result<NoopWalk, KernelError>;

/// The thread ends when nobody can ask it any more.
fn start(mut noop: Noop, top: File) -> Result<(Sender<()>, Receiver<Walked>)> {
    let (requests, asked) = channel::<()>();
    let (answer, answers) = channel();
    let walk = move || {
        for () in asked {
            if answer.send(noop.walk(top.as_fd())).is_err() {
                return;
            }
        }
    };
    thread::Builder::new().name("noop".to_owned()).spawn(walk).context("start a thread")?;
    Ok((requests, answers))
}
