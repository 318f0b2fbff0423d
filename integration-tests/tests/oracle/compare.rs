//! The rules by which a value agrees with its file.

use cgfleet_model::{Agreement, Metric, MetricInfo, MetricKind};

/// What the kernel lets lie unflushed for each CPU (mm/memcontrol.c, MEMCG_CHARGE_BATCH).
const UNFLUSHED_PER_CPU: u64 = 64;

/// Whether the loads run while it is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Loads {
    Running,
    Stopped,
}

/// What a comparison comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// There is nothing to compare.
    Nothing,
    /// Both reads of the file show what the row has.
    Exact,
    /// It lies between them.
    Agrees,
    /// The value moves up and down, so this says nothing: to be compared again while the loads are stopped.
    Moved,
    Mismatch(&'static str),
}

/// One metric of one cgroup.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Compared {
    pub(crate) metric: Metric,
    pub(crate) before: Option<u64>,
    pub(crate) row: Option<u64>,
    pub(crate) after: Option<u64>,
    /// Whether GetCapabilities says that it is read from this hierarchy.
    pub(crate) is_placed: bool,
    /// Whether the catalogue says that no file of this hierarchy shows it.
    pub(crate) has_no_file: bool,
}

impl Compared {
    pub(crate) fn outcome(&self, loads: Loads) -> Outcome {
        match (self.before, self.row, self.after) {
            (None, Some(_), None) if !self.has_no_file => Outcome::Mismatch("a value that no file shows"),
            (Some(_), None, Some(_)) if self.is_placed => {
                Outcome::Mismatch("a file shows it, the row does not")
            }
            (Some(before), Some(row), Some(after)) => self.outcome_of(before, row, after, loads),
            _ => Outcome::Nothing,
        }
    }

    fn outcome_of(&self, before: u64, row: u64, after: u64, loads: Loads) -> Outcome {
        let info = self.metric.info();
        let (least, most) = (before.min(after), before.max(after));
        if least == row && row == most {
            return Outcome::Exact;
        }
        let slack = match loads {
            Loads::Running => slack(info),
            Loads::Stopped => 0,
        };
        if (least.saturating_sub(slack)..=most.saturating_add(slack)).contains(&row) {
            return Outcome::Agrees;
        }
        let moves = info.kind == MetricKind::Gauge || info.agreement() == Agreement::FlushThreshold;
        if loads == Loads::Running && moves {
            return Outcome::Moved;
        }
        Outcome::Mismatch("another value than the file's")
    }
}

fn slack(info: &MetricInfo) -> u64 {
    let cpus = std::thread::available_parallelism().map_or(1, usize::from) as u64;
    let unit = if info.unit == "bytes" { rustix::param::page_size() as u64 } else { 1 };
    match info.agreement() {
        Agreement::Between => 0,
        Agreement::FlushThreshold => UNFLUSHED_PER_CPU * cpus * unit,
    }
}
