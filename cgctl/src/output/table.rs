//! Tables for people: columns side by side, metrics in the units that people read.

use std::{
    io::{self, Write},
    time::{Duration, SystemTime},
};

use cgfleet_model::{Limit, Metric, MetricInfo, MetricKind};
use cgfleet_proto::v1::CgroupSample;
use clap::builder::styling::Style;
use comfy_table::CellAlignment;
use jiff::tz::TimeZone;

use crate::{error::one_line, moment};

/// What stands where nothing was measured or known.
pub(crate) const ABSENT: &str = "-";
/// What stands where a collector had no room for the cgroup.
const OVERFLOW: &str = "overflow";
pub(crate) const HEADER: Style = Style::new().bold();

/// A column: its title, and on which side its cells line up.
pub(crate) enum Column {
    /// Words, on the left.
    Text(String),
    /// Numbers, on the right.
    Number(String),
}

impl Column {
    pub(crate) fn text(title: &str) -> Self {
        Self::Text(title.to_owned())
    }

    pub(crate) fn number(title: &str) -> Self {
        Self::Number(title.to_owned())
    }
}

/// A table without lines, as `ps` prints it.
pub(crate) struct Table(comfy_table::Table);

impl Table {
    pub(crate) fn new(columns: impl IntoIterator<Item = Column>) -> Self {
        let (titles, sides): (Vec<String>, Vec<CellAlignment>) = columns
            .into_iter()
            .map(|column| match column {
                Column::Text(title) => (title, CellAlignment::Left),
                Column::Number(title) => (title, CellAlignment::Right),
            })
            .unzip();
        let mut table = comfy_table::Table::new();
        table.load_style(comfy_table::presets::NOTHING).set_header(titles);
        for (column, side) in table.column_iter_mut().zip(sides) {
            column.set_padding((0, 2)).set_cell_alignment(side);
        }
        Self(table)
    }

    /// Adds a row; a cell for each column.
    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = Option<String>>) {
        let cells =
            cells.into_iter().map(|cell| cell.map_or_else(|| ABSENT.to_owned(), |cell| one_line(&cell)));
        self.0.add_row(cells.collect::<Vec<_>>());
    }

    /// Prints it, the titles in bold where `out` lets that pass.
    pub(crate) fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        let mut lines = self.0.lines();
        if let Some(titles) = lines.next() {
            writeln!(out, "{HEADER}{}{HEADER:#}", titles.trim_end())?;
        }
        lines.try_for_each(|line| writeln!(out, "{}", line.trim_end()))
    }
}

/// A metric's title with the unit in which [`metric_cell`] shows it: `CPU_USAGE(s)`, `PIDS_CURRENT`.
pub(crate) fn metric_title(info: &MetricInfo) -> String {
    let name = info.name.strip_suffix(info.unit).and_then(|name| name.strip_suffix('_')).unwrap_or(info.name);
    let name = name.replace('.', "_").to_uppercase();
    match Shown::of(info) {
        Shown::Number => name,
        shown => format!("{name}({})", shown.unit()),
    }
}

/// The title of the rate beside it: `CPU_USAGE(cores)`, for a second of CPU time per second is one.
pub(crate) fn rate_title(info: &MetricInfo) -> String {
    let title = metric_title(info);
    match Shown::of(info) {
        Shown::Seconds => title.replace("(s)", "(cores)"),
        Shown::Milliseconds => title.replace("(ms)", "(ms/s)"),
        Shown::Mebibytes => title.replace("(MiB)", "(MiB/s)"),
        Shown::Number => format!("{title}(1/s)"),
    }
}

/// A metric's value in the unit of its title.
pub(crate) fn metric_cell(metric: Metric, value: u64) -> String {
    let info = metric.info();
    if info.kind == MetricKind::Limit && Limit::from(value) == Limit::Max {
        return Limit::Max.to_string();
    }
    match Shown::of(info) {
        Shown::Seconds => format!("{:.3}", Duration::from_micros(value).as_secs_f64()),
        Shown::Milliseconds => format!("{:.3}", as_float(value) / 1e6),
        Shown::Mebibytes => format!("{:.1}", as_float(value) / MEBIBYTE),
        Shown::Number => value.to_string(),
    }
}

/// A cell for a metric of a row; `None` if it was not measured.
pub(crate) fn sample_cell(sample: &CgroupSample, metric: Metric) -> Option<String> {
    if sample.is_overflowed(metric.info().group) {
        return Some(OVERFLOW.to_owned());
    }
    Some(metric_cell(metric, sample.metric(metric)?))
}

/// What runs in a row's cgroup, as people call it: pod and container, else container, else systemd unit; ids by
/// their first digits. `None` if it is none of these.
pub(crate) fn workload_cell(sample: &CgroupSample) -> Option<String> {
    let workload = sample.workload.as_deref()?;
    let [namespace, pod, uid, container, id, runtime, unit] = [
        &workload.pod_namespace,
        &workload.pod_name,
        &workload.pod_uid,
        &workload.container_name,
        &workload.container_id,
        &workload.runtime,
        &workload.systemd_unit,
    ]
    .map(|text| Some(text.as_str()).filter(|text| !text.is_empty()));
    let pod = match (namespace, pod) {
        (Some(namespace), Some(pod)) => Some(format!("{namespace}/{pod}")),
        _ => uid.map(|uid| format!("pod {uid}")),
    };
    let id = id.map(|id| id.get(..ID_DIGITS_SHOWN).unwrap_or(id));
    match (pod, container.or(id)) {
        (Some(pod), Some(container)) => Some(format!("{pod}/{container}")),
        (Some(pod), None) => Some(pod),
        (None, Some(container)) => {
            Some(runtime.map_or_else(|| container.to_owned(), |runtime| format!("{runtime} {container}")))
        }
        (None, None) => unit.map(str::to_owned),
    }
}

/// As many digits of an id are printed by container tools, and taken by `--container`.
const ID_DIGITS_SHOWN: usize = 12;

/// A metric's rate in the unit of its title.
pub(crate) fn rate_cell(metric: Metric, per_second: f64) -> String {
    match Shown::of(metric.info()) {
        Shown::Seconds | Shown::Milliseconds => format!("{:.3}", per_second / 1e6),
        Shown::Mebibytes => format!("{:.1}", per_second / MEBIBYTE),
        Shown::Number => format!("{per_second:.1}"),
    }
}

/// A computed value of a metric in the unit of its title; one that is infinite is a limit that is not set.
pub(crate) fn value_cell(metric: Metric, value: f64) -> String {
    if value.is_infinite() {
        return Limit::Max.to_string();
    }
    match Shown::of(metric.info()) {
        Shown::Seconds | Shown::Milliseconds => format!("{:.3}", value / 1e6),
        Shown::Mebibytes => format!("{:.1}", value / MEBIBYTE),
        Shown::Number if value.fract() == 0.0 => format!("{value:.0}"),
        Shown::Number => format!("{value:.1}"),
    }
}

const MEBIBYTE: f64 = 1_048_576.0;

#[allow(clippy::cast_precision_loss, reason = "shown to a tenth of a mebibyte, or a microsecond")]
pub(crate) fn as_float(value: u64) -> f64 {
    value as f64
}

/// In what people read a metric.
#[derive(Clone, Copy)]
enum Shown {
    Seconds,
    Milliseconds,
    Mebibytes,
    Number,
}

impl Shown {
    fn of(info: &MetricInfo) -> Self {
        match info.unit {
            "usec" => Self::Seconds,
            "ns" => Self::Milliseconds,
            "bytes" => Self::Mebibytes,
            _ => Self::Number,
        }
    }

    fn unit(self) -> &'static str {
        match self {
            Self::Seconds => "s",
            Self::Milliseconds => "ms",
            Self::Mebibytes => "MiB",
            Self::Number => "1",
        }
    }
}

/// A time that took `ns` nanoseconds, to three digits: `812 µs`.
pub(crate) fn elapsed(ns: u64) -> String {
    let mut value = Duration::from_nanos(ns).as_secs_f64() * 1e9;
    for unit in ["ns", "µs", "ms"] {
        if value < 999.5 {
            let decimals =
                usize::from(value < 99.95 && unit != "ns") + usize::from(value < 9.995 && unit != "ns");
            return format!("{value:.decimals$} {unit}");
        }
        value /= 1e3;
    }
    format!("{value:.2} s")
}

/// A time in nanoseconds.
pub(crate) fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// A moment in a time zone, such that `--since` reads it back.
pub(crate) fn moment_cell(moment: &prost_types::Timestamp, zone: &TimeZone) -> Option<String> {
    let zoned = moment::from_proto(moment)?.to_zoned(zone.clone());
    Some(zoned.strftime("%Y-%m-%dT%H:%M:%S%.3f%:z").to_string())
}

/// How long ago a moment was, in whole seconds.
pub(crate) fn age_cell(moment: &prost_types::Timestamp, now: SystemTime) -> Option<String> {
    let then = SystemTime::try_from(*moment).ok()?;
    // A moment in the future is a clock that differs: now, as far as anybody can tell.
    let age = now.duration_since(then).unwrap_or_default();
    Some(format!("{} ago", humantime::format_duration(Duration::from_secs(age.as_secs()))))
}

#[cfg(test)]
mod tests {
    use cgfleet_model::Collector;
    use cgfleet_proto::v1::{Source, Workload};

    use super::*;

    #[test]
    fn a_title_names_the_unit_of_its_cells() {
        let info = Metric::CpuUsage.info();
        assert_eq!(
            (metric_title(info), rate_title(info)),
            ("CPU_USAGE(s)".into(), "CPU_USAGE(cores)".into())
        );
        assert_eq!(metric_cell(Metric::CpuUsage, 1_234_567), "1.235");
        assert_eq!(rate_cell(Metric::CpuUsage, 1_500_000.0), "1.500");
        let check = |metric: Metric, value, title: &str, cell: &str| {
            assert_eq!(
                (metric_title(metric.info()).as_str(), metric_cell(metric, value).as_str()),
                (title, cell)
            );
        };
        check(Metric::MemoryCurrent, 1_572_864, "MEMORY_CURRENT(MiB)", "1.5");
        check(Metric::MemoryMax, u64::MAX, "MEMORY_MAX(MiB)", "max");
        check(Metric::PidsCurrent, 12, "PIDS_CURRENT", "12");
        check(Metric::RunqueueMax, 1_234_567, "RUNQUEUE_MAX(ms)", "1.235");
        assert_eq!(rate_title(Metric::RunqueueTotal.info()), "RUNQUEUE_TOTAL(ms/s)");
        assert_eq!(rate_cell(Metric::RunqueueTotal, 1_500_000.0), "1.500");
        assert_eq!(rate_title(Metric::IoRbytes.info()), "IO_RBYTES(MiB/s)");
        assert_eq!(rate_title(Metric::IoRios.info()), "IO_RIOS(1/s)");
    }

    #[test]
    fn a_workload_is_called_by_what_is_known_of_it() {
        let check = |[pod, uid, container, id, runtime, unit]: [&str; 6], expect: Option<&str>| {
            let workload = Workload {
                pod_namespace: if pod.is_empty() { String::new() } else { "shop".into() },
                pod_name: pod.into(),
                pod_uid: uid.into(),
                container_name: container.into(),
                container_id: id.into(),
                runtime: runtime.into(),
                systemd_unit: unit.into(),
                systemd_slice: "a.slice".into(),
            };
            let sample = CgroupSample { workload: Some(workload.into()), ..CgroupSample::default() };
            assert_eq!(workload_cell(&sample).as_deref(), expect);
        };
        let id = "8d7c5b0a5a7c4a1c";
        check(["web-0", "u", "nginx", id, "crio", "x.scope"], Some("shop/web-0/nginx"));
        check(["web-0", "u", "", id, "", ""], Some("shop/web-0/8d7c5b0a5a7c"));
        check(["web-0", "u", "", "", "", "x.scope"], Some("shop/web-0"));
        check(["", "u", "", id, "crio", ""], Some("pod u/8d7c5b0a5a7c"));
        check(["", "u", "", "", "", ""], Some("pod u"));
        check(["", "", "", id, "docker", "x.scope"], Some("docker 8d7c5b0a5a7c"));
        check(["", "", "", id, "", ""], Some("8d7c5b0a5a7c"));
        check(["", "", "", "", "", "ssh.service"], Some("ssh.service"));
        check(["", "", "", "", "", ""], None);
        assert_eq!(workload_cell(&CgroupSample::default()), None);
    }

    #[test]
    fn what_overflowed_is_neither_a_number_nor_absent() {
        let mut sample = CgroupSample::default();
        sample.set_metric(Metric::AttachCount, Some(0));
        sample.set_overflowed(Collector::Runqueue, Source::Rstat);
        let check = |metric, expect: Option<&str>| {
            assert_eq!(sample_cell(&sample, metric).as_deref(), expect, "{}", metric.name());
        };
        check(Metric::AttachCount, Some("0"));
        check(Metric::RunqueueCount, Some("overflow"));
        check(Metric::RunqueueMax, Some("overflow"));
        check(Metric::BlockIoCount, None);
    }

    #[test]
    fn elapsed_time_has_three_digits() {
        let check = |ns, expect: &str| assert_eq!(elapsed(ns), expect);
        check(0, "0 ns");
        check(999, "999 ns");
        check(1_000, "1.00 µs");
        check(81_249, "81.2 µs");
        check(812_000, "812 µs");
        check(999_499, "999 µs");
        check(999_600, "1.00 ms");
        check(12_345_678, "12.3 ms");
        check(61_234_000_000, "61.23 s");
    }

    #[test]
    fn a_shown_moment_can_be_given_back() {
        let moment = prost_types::Timestamp { seconds: 1_795_420_800, nanos: 250_000_000 };
        let zone = TimeZone::fixed(jiff::tz::offset(1));
        let shown = moment_cell(&moment, &zone).unwrap();
        assert_eq!(shown, "2026-11-23T09:00:00.250+01:00");
        assert_eq!(shown.parse().ok(), moment::from_proto(&moment));
    }

    #[test]
    fn an_age_is_never_negative() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(3_700);
        let check = |seconds, expect: &str| {
            let moment = prost_types::Timestamp { seconds, nanos: 0 };
            assert_eq!(age_cell(&moment, now).as_deref(), Some(expect));
        };
        check(0, "1h 1m 40s ago");
        check(3_700, "0s ago");
        check(9_999, "0s ago");
    }
}
