//! Columns of views: metrics that view.bpf.c can write.

use cgfleet_ebpf::abi;
use cgfleet_model::Metric;

/// In the order in which the program writes them.
const COLUMNS: [(Metric, u32); 7] = [
    (Metric::CpuUsage, abi::CG_VIEW_CPU_USAGE),
    (Metric::MemoryCurrent, abi::CG_VIEW_MEMORY_CURRENT),
    (Metric::PidsCurrent, abi::CG_VIEW_PIDS_CURRENT),
    (Metric::StructurePopulated, abi::CG_VIEW_POPULATED),
    (Metric::StructureFrozen, abi::CG_VIEW_FROZEN),
    (Metric::StructureNrDescendants, abi::CG_VIEW_NR_DESCENDANTS),
    (Metric::StructureNrDyingDescendants, abi::CG_VIEW_NR_DYING_DESCENDANTS),
];

/// The columns of a view, by the ABI's bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Columns(u32);

/// A field that is no column, nor a group of some.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field:?} is no column of a view; there are {}", Columns::allowed())]
pub(crate) struct NoColumn {
    pub(crate) field: String,
}

impl Columns {
    /// The columns that these fields are or contain; all, if there are none.
    pub(crate) fn of_fields<'a>(fields: impl IntoIterator<Item = &'a str>) -> Result<Self, NoColumn> {
        let mut bits = 0;
        for field in fields {
            let is_named = |name: &str| {
                name.strip_prefix(field).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
            };
            let named = COLUMNS.iter().filter(|(metric, _)| is_named(metric.name()));
            let named = named.fold(0, |bits, (_, bit)| bits | bit);
            if named == 0 {
                return Err(NoColumn { field: field.to_owned() });
            }
            bits |= named;
        }
        Ok(if bits == 0 { Self::all() } else { Self(bits) })
    }

    fn all() -> Self {
        Self(COLUMNS.iter().fold(0, |bits, (_, bit)| bits | bit))
    }

    /// What fields may be, for people.
    pub(crate) fn allowed() -> String {
        COLUMNS.map(|(metric, _)| metric.name()).join(", ")
    }

    /// The ABI's bits.
    pub(crate) fn bits(self) -> u32 {
        self.0
    }

    /// The names of those that are metrics.
    pub(crate) fn names(self) -> impl Iterator<Item = &'static str> {
        COLUMNS.into_iter().filter(move |(_, bit)| self.0 & bit != 0).map(|(metric, _)| metric.name())
    }

    /// The names of all columns of the text.
    pub(crate) fn heading(self) -> String {
        let around = ["cgroup_id", "parent_id", "level"].into_iter().chain(self.names()).chain(["name"]);
        around.collect::<Vec<_>>().join(" ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_columns_or_groups_of_them() {
        let check = |fields: &[&str], expect: Option<&str>| {
            let columns = Columns::of_fields(fields.iter().copied());
            assert_eq!(columns.ok().map(Columns::heading).as_deref(), expect, "{fields:?}");
        };
        check(&["cpu"], Some("cgroup_id parent_id level cpu.usage_usec name"));
        check(
            &["pids.current", "cpu.usage_usec"],
            Some("cgroup_id parent_id level cpu.usage_usec pids.current name"),
        );
        check(&["cp"], None);
        check(&["cpu.user_usec"], None);
        check(&["memory", "io"], None);
    }

    #[test]
    fn the_longest_heading_fits() {
        let heading = Columns::of_fields([]).unwrap().heading();
        assert!(heading.len() < abi::CG_VIEW_HEADING_BYTES as usize, "{heading}");
    }
}
