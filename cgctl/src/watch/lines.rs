//! Rows for people, a line each, as they come. A column gets wider where it has to, and never narrower.

use std::io::{self, Write};

use cgfleet_model::{Metric, MetricKind};
use cgfleet_proto::v1::{CgroupSample, CounterForm};

use crate::{
    error::one_line,
    output::table::{ABSENT, HEADER, as_float, metric_title, rate_cell, rate_title, sample_cell},
    words,
};

/// What a row is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Snapshot,
    Update,
    /// With final values, or the last that are known.
    Removed {
        is_final: bool,
    },
}

impl Kind {
    fn word(self) -> &'static str {
        match self {
            Self::Snapshot => "SNAPSHOT",
            Self::Update => "UPDATE",
            Self::Removed { is_final: true } => "REMOVED",
            Self::Removed { is_final: false } => "REMOVED~",
        }
    }
}

/// The lines' form.
pub(super) struct Lines {
    metrics: Vec<Metric>,
    counters: CounterForm,
    /// How long the hosts' names are, as far as is known, if each line names its host.
    host_width: Option<usize>,
    widths: Vec<usize>,
}

impl Lines {
    pub(super) fn new(metrics: Vec<Metric>, counters: CounterForm, host_width: Option<usize>) -> Self {
        Self { metrics, counters, host_width, widths: Vec::new() }
    }

    /// Prints rows of a host; before the first ones, the titles.
    pub(super) fn write<'a>(
        &mut self,
        out: &mut dyn Write,
        hostname: &str,
        rows: impl Iterator<Item = (Kind, &'a CgroupSample)>,
    ) -> io::Result<()> {
        let rows: Vec<Vec<String>> = rows.map(|(kind, sample)| self.cells(hostname, kind, sample)).collect();
        let titles = self.widths.is_empty().then(|| self.titles());
        for cells in titles.iter().chain(&rows) {
            self.widths.resize(cells.len(), 0);
            for (width, cell) in self.widths.iter_mut().zip(cells) {
                *width = (*width).max(cell.chars().count());
            }
        }
        if let Some(titles) = titles {
            writeln!(out, "{HEADER}{}{HEADER:#}", self.line(&titles))?;
        }
        rows.iter().try_for_each(|cells| writeln!(out, "{}", self.line(cells)))
    }

    fn titles(&self) -> Vec<String> {
        let metrics = self.metrics.iter().map(|metric| {
            let info = metric.info();
            if self.is_rate(*metric) { rate_title(info) } else { metric_title(info) }
        });
        let mut titles = vec!["EVENT".to_owned()];
        titles.extend(self.host_width.map(|width| format!("{:<width$}", "HOST")));
        titles.push("CGROUP_ID".to_owned());
        titles.extend(metrics);
        titles.extend(["SOURCE", "PATH"].map(str::to_owned));
        titles
    }

    fn cells(&self, hostname: &str, kind: Kind, sample: &CgroupSample) -> Vec<String> {
        let mut cells = vec![kind.word().to_owned()];
        cells.extend(self.host_width.map(|_| one_line(hostname)));
        cells.push(sample.cgroup_id.to_string());
        let absent = || ABSENT.to_owned();
        cells.extend(
            self.metrics.iter().map(|metric| self.cell(kind, sample, *metric).unwrap_or_else(absent)),
        );
        cells.extend([words::sources_of(sample).unwrap_or_else(absent), one_line(&sample.path)]);
        cells
    }

    fn cell(&self, kind: Kind, sample: &CgroupSample, metric: Metric) -> Option<String> {
        let is_total = matches!(kind, Kind::Removed { .. }) || sample.is_overflowed(metric.info().group);
        match sample.metric(metric) {
            Some(value) if self.is_rate(metric) && !is_total => Some(rate_cell(metric, as_float(value))),
            _ => sample_cell(sample, metric),
        }
    }

    fn is_rate(&self, metric: Metric) -> bool {
        self.counters == CounterForm::Rate && metric.info().kind == MetricKind::Counter
    }

    /// Words on the left of their columns, numbers on the right.
    fn line(&self, cells: &[String]) -> String {
        let first_number = 1 + usize::from(self.host_width.is_some());
        let numbers = first_number..=first_number + self.metrics.len();
        let cells = cells.iter().zip(&self.widths).enumerate().map(|(place, (cell, &width))| {
            if numbers.contains(&place) { format!("{cell:>width$}") } else { format!("{cell:<width$}") }
        });
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    }
}

#[cfg(test)]
mod tests {
    use cgfleet_proto::v1::{CpuSample, MemorySample, Source};
    use expect_test::{Expect, expect};

    use super::*;

    fn sample(path: &str, usage_usec: Option<u64>, current_bytes: u64) -> CgroupSample {
        let source = Source::Bpf.into();
        CgroupSample {
            cgroup_id: 42,
            path: path.into(),
            cpu: Some(CpuSample { source, usage_usec, ..CpuSample::default() }),
            memory: Some(
                MemorySample { source, current_bytes: Some(current_bytes), ..MemorySample::default() }.into(),
            ),
            ..CgroupSample::default()
        }
    }

    fn check(counters: CounterForm, host_width: Option<usize>, expect: &Expect) {
        let metrics = vec![Metric::CpuUsage, Metric::MemoryCurrent];
        let (mut lines, mut out) = (Lines::new(metrics, counters, host_width), Vec::new());
        let first = sample("/a", Some(1_500_000), 1 << 20);
        lines.write(&mut out, "web-1", [(Kind::Snapshot, &first)].into_iter()).unwrap();
        let (update, removed) = (sample("/b", None, 3 << 30), sample("/a", Some(2_000_000), 0));
        let removed_last = (Kind::Removed { is_final: false }, &removed);
        let rows = [(Kind::Update, &update), (Kind::Removed { is_final: true }, &removed), removed_last];
        lines.write(&mut out, "long-name", rows.into_iter()).unwrap();
        expect.assert_eq(&anstream::adapter::strip_str(&String::from_utf8(out).unwrap()).to_string());
    }

    #[test]
    fn a_line_says_what_it_is_and_what_was_removed_says_its_totals() {
        check(
            CounterForm::Cumulative,
            Some(7),
            &expect![[r#"
                EVENT     HOST     CGROUP_ID  CPU_USAGE(s)  MEMORY_CURRENT(MiB)  SOURCE  PATH
                SNAPSHOT  web-1           42         1.500                  1.0  bpf     /a
                UPDATE    long-name         42             -               3072.0  bpf     /b
                REMOVED   long-name         42         2.000                  0.0  bpf     /a
                REMOVED~  long-name         42         2.000                  0.0  bpf     /a
            "#]],
        );
        check(
            CounterForm::Rate,
            None,
            &expect![[r#"
            EVENT     CGROUP_ID  CPU_USAGE(cores)  MEMORY_CURRENT(MiB)  SOURCE  PATH
            SNAPSHOT         42             1.500                  1.0  bpf     /a
            UPDATE           42                 -               3072.0  bpf     /b
            REMOVED          42             2.000                  0.0  bpf     /a
            REMOVED~         42             2.000                  0.0  bpf     /a
        "#]],
        );
    }
}
