//! What was compared, by metric.

use std::collections::{HashMap, HashSet};

use cgfleet_model::Metric;
use cgfleet_proto::v1::{MetricCapability, Source};
use comfy_table::{CellAlignment, Table, presets};

use super::compare::Outcome;

/// As many mismatches are shown in full.
const SHOWN_MAX: usize = 40;

#[derive(Debug, Default)]
struct Tally {
    compared: u64,
    exact: u64,
    moved: u64,
    mismatches: u64,
    not_zero_in: HashSet<(u32, u64)>,
    largest: u64,
}

/// All comparisons.
#[derive(Debug, Default)]
pub(crate) struct Tallies {
    by_metric: HashMap<Metric, Tally>,
    shown: Vec<String>,
}

impl Tallies {
    pub(crate) fn add(&mut self, metric: Metric, outcome: Outcome, row: Option<u64>, cgroup: (u32, u64)) {
        let tally = self.by_metric.entry(metric).or_default();
        match outcome {
            Outcome::Exact => tally.exact += 1,
            Outcome::Moved => tally.moved += 1,
            Outcome::Nothing | Outcome::Agrees | Outcome::Mismatch(_) => {}
        }
        let is_compared = outcome != Outcome::Nothing;
        tally.compared += u64::from(is_compared);
        // The largest number stands for "max".
        if let Some(row) = row.filter(|row| is_compared && *row != 0 && *row != u64::MAX) {
            tally.not_zero_in.insert(cgroup);
            tally.largest = tally.largest.max(row);
        }
    }

    pub(crate) fn add_mismatch(&mut self, metric: Metric, text: String) {
        self.by_metric.entry(metric).or_default().mismatches += 1;
        self.shown.push(text);
    }

    pub(crate) fn mismatches(&self) -> u64 {
        self.by_metric.values().map(|tally| tally.mismatches).sum()
    }

    pub(crate) fn summary(&self) -> String {
        let sum = |of: fn(&Tally) -> u64| self.by_metric.values().map(of).sum::<u64>();
        let (compared, exact) = (sum(|tally| tally.compared), sum(|tally| tally.exact));
        format!("{compared} comparisons, {exact} of them exact, {} mismatches", self.mismatches())
    }

    pub(crate) fn was_not_zero(&self, metric: Metric) -> bool {
        self.by_metric.get(&metric).is_some_and(|tally| !tally.not_zero_in.is_empty())
    }

    pub(crate) fn print(&self, capabilities: &[MetricCapability]) {
        let mut table = Table::new();
        table.load_style(presets::NOTHING);
        table.set_header([
            "metric",
            "source",
            "compared",
            "exact",
            "moved",
            "mismatches",
            "cgroups not 0",
            "largest",
        ]);
        for column in 2..8 {
            if let Some(column) = table.column_mut(column) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        let none = Tally::default();
        for metric in Metric::ALL {
            let tally = self.by_metric.get(metric).unwrap_or(&none);
            let capability = capabilities.iter().find(|capability| capability.metric == metric.name());
            let source = match capability.map(MetricCapability::source) {
                Some(Source::Bpf) => "bpf",
                Some(Source::File) => "file",
                Some(Source::Rstat) => "rstat",
                Some(Source::Fold) => "fold",
                Some(Source::Unspecified) | None => "none",
            };
            let hierarchy = capability.map_or("", |capability| capability.hierarchy.as_str());
            let place =
                if hierarchy.is_empty() { source.to_owned() } else { format!("{source} ({hierarchy})") };
            let numbers = [
                tally.compared,
                tally.exact,
                tally.moved,
                tally.mismatches,
                tally.not_zero_in.len() as u64,
                tally.largest,
            ];
            let cells = [metric.name().to_owned(), place].into_iter();
            table.add_row(cells.chain(numbers.iter().map(u64::to_string)));
        }
        println!("{table}");
        for text in self.shown.iter().take(SHOWN_MAX) {
            println!("{text}");
        }
    }
}
