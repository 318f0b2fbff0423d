//! One cgroup of a simulated tree: its sample, and how it grows.

use std::sync::Arc;

use cgfleet_proto::v1::{CgroupSample, CpuSample, IoSample, MemorySample, PidsSample, Source};

use super::activity::{Character, Growth};

/// How the wire says "max".
const UNLIMITED: u64 = u64::MAX;
/// What a service may have (systemd: DefaultTasksMax is 15 % of what the kernel allows).
const TASKS_MAX: u64 = 4915;

#[derive(Debug)]
pub(super) struct Cgroup {
    /// Copied where others have it, too.
    pub(super) sample: Arc<CgroupSample>,
    /// Its place in the tree; `None` for the root.
    pub(super) parent: Option<usize>,
    /// What it does by itself, if it is a leaf.
    pub(super) character: Option<Character>,
    /// Whether it is counted already in the tick that is made.
    pub(super) has_changed: bool,
}

impl Cgroup {
    /// One that was made just now.
    pub(super) fn new(
        cgroup_id: u64,
        path: String,
        parent: Option<(usize, &CgroupSample)>,
        character: Option<Character>,
    ) -> Self {
        let cpu = CpuSample {
            source: Source::Bpf.into(),
            usage_usec: Some(0),
            nr_periods: Some(0),
            nr_throttled: Some(0),
            throttled_usec: Some(0),
            ..CpuSample::default()
        };
        let max_bytes = match &character {
            Some(character) if character.is_limited() => character.memory_bytes().next_power_of_two() * 4,
            _ => UNLIMITED,
        };
        let memory = MemorySample {
            source: Source::Bpf.into(),
            current_bytes: Some(0),
            peak_bytes: Some(0),
            swap_current_bytes: Some(0),
            max_bytes: Some(max_bytes),
            ..MemorySample::default()
        };
        let io = IoSample {
            source: Source::Bpf.into(),
            rbytes: Some(0),
            wbytes: Some(0),
            rios: Some(0),
            wios: Some(0),
            dbytes: Some(0),
            dios: Some(0),
            ..IoSample::default()
        };
        let pids = PidsSample {
            source: Source::Bpf.into(),
            current: Some(0),
            max: Some(if character.is_some() { TASKS_MAX } else { UNLIMITED }),
        };
        let sample = CgroupSample {
            cgroup_id,
            parent_id: parent.map_or(0, |(_, parent)| parent.cgroup_id),
            level: parent.map_or(0, |(_, parent)| parent.level + 1),
            path,
            cpu: Some(cpu),
            memory: Some(Box::new(memory)),
            io: Some(Box::new(io)),
            pids: Some(pids),
            ..CgroupSample::default()
        };
        Self {
            sample: Arc::new(sample),
            parent: parent.map(|(place, _)| place),
            character,
            has_changed: true,
        }
    }

    /// What it has when it begins.
    pub(super) fn first_growth(character: &Character) -> Growth {
        Growth {
            memory_bytes: character.memory_bytes().cast_signed(),
            pids: 2,
            cpu_usec: 20_000,
            ..Growth::default()
        }
    }

    /// What is gone with it: of its ancestors, what it had, and not what it counted.
    pub(super) fn last_growth(&self) -> Growth {
        let memory = self.sample.memory.as_ref().and_then(|memory| memory.current_bytes);
        let pids = self.sample.pids.as_ref().and_then(|pids| pids.current);
        let less = |value: Option<u64>| -value.unwrap_or_default().cast_signed();
        Growth { memory_bytes: less(memory), pids: less(pids), ..Growth::default() }
    }

    /// Counts what it did itself, or one below it did.
    pub(super) fn grow(&mut self, growth: &Growth, is_own: bool) {
        self.has_changed = true;
        let sample = Arc::make_mut(&mut self.sample);
        if let Some(cpu) = &mut sample.cpu {
            add(&mut cpu.usage_usec, growth.cpu_usec);
            // A bandwidth limit is of one cgroup.
            if is_own {
                add(&mut cpu.nr_periods, growth.nr_periods);
                add(&mut cpu.nr_throttled, growth.nr_throttled);
                add(&mut cpu.throttled_usec, growth.throttled_usec);
            }
        }
        if let Some(memory) = &mut sample.memory {
            let current = memory.current_bytes.unwrap_or_default().saturating_add_signed(growth.memory_bytes);
            memory.current_bytes = Some(current);
            memory.peak_bytes = memory.peak_bytes.max(Some(current));
        }
        if let Some(io) = &mut sample.io {
            add(&mut io.rbytes, growth.rbytes);
            add(&mut io.wbytes, growth.wbytes);
            add(&mut io.rios, growth.rios);
            add(&mut io.wios, growth.wios);
            add(&mut io.dbytes, growth.dbytes);
            add(&mut io.dios, growth.dios);
        }
        if let Some(pids) = &mut sample.pids {
            let current = pids.current.unwrap_or_default().saturating_add_signed(growth.pids);
            pids.current = Some(current);
        }
    }
}

fn add(counter: &mut Option<u64>, growth: u64) {
    *counter = Some(counter.unwrap_or_default() + growth);
}
