//! Series as drawings of braille dots, one below the other: 80 columns, a dot for each half of a column. Where
//! there is no value there is no dot, and the axis is broken.

use std::{io::Write, time::Duration};

use cgfleet_proto::v1::{HistorySeries, HistoryValue, query_history_response::Event};
use jiff::tz::TimeZone;

use super::{
    Taker,
    series::{Held, cell, labels_of, title},
};
use crate::{error::Error, moment, output::note};

/// Columns of the drawing itself; labels of the values are left of it.
const COLUMNS: usize = 64;
const LINES: usize = 8;
const LABEL_COLUMNS: usize = 13;
/// Dots of a character (Unicode, Braille Patterns): two side by side, four one above the other.
const DOTS: [[u32; 4]; 2] = [[0x01, 0x02, 0x04, 0x40], [0x08, 0x10, 0x20, 0x80]];
/// The most series that are drawn.
const DRAWN_MAX: usize = 24;
/// Steps that people think in, in seconds.
const STEPS: [u64; 19] = [
    1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1_800, 3_600, 7_200, 10_800, 21_600, 43_200, 86_400, 604_800,
];

/// The step at which so long a time just fills a drawing.
pub(super) fn step_for(range: Duration) -> Duration {
    let least = range.as_secs() / (COLUMNS as u64 * 2);
    let step = STEPS.iter().find(|step| **step >= least).unwrap_or(&STEPS[STEPS.len() - 1]);
    // Ticks come every ten seconds where nobody said otherwise: shorter steps are mostly empty.
    Duration::from_secs((*step).max(10))
}

/// Draws series when all are there.
pub(super) struct Plot<W> {
    out: W,
    zone: TimeZone,
    held: Vec<Held>,
    series: usize,
    gaps: usize,
}

impl<W: Write> Plot<W> {
    pub(super) fn new(out: W, zone: TimeZone) -> Self {
        Self { out, zone, held: Vec::new(), series: 0, gaps: 0 }
    }
}

impl<W: Write> Taker for Plot<W> {
    fn take(&mut self, event: Event) -> Result<(), Error> {
        match event {
            Event::Series(series) => {
                self.series += 1;
                if self.held.len() <= DRAWN_MAX {
                    self.held.push(Held { series, values: Vec::new() });
                }
            }
            Event::Values(values) => {
                let held = self.held.last_mut().filter(|held| held.series.series == values.series);
                if let Some(held) = held {
                    held.values.extend(values.values);
                }
            }
            Event::Gap(_) => self.gaps += 1,
            Event::Points(_) | Event::Summary(_) => {}
        }
        Ok(())
    }

    fn finish(&mut self) -> Result<(), Error> {
        let Some(span) = Span::of(&self.held) else { return Ok(()) };
        for held in self.held.iter().take(DRAWN_MAX) {
            for line in draw(held, span, &self.zone) {
                writeln!(self.out, "{line}")?;
            }
        }
        self.out.flush()?;
        if self.series > DRAWN_MAX {
            let left_out = self.series - DRAWN_MAX;
            note(&format!("{left_out} more series are not drawn; --top or --group-by leaves fewer"));
        }
        Ok(())
    }

    fn counts(&self) -> String {
        format!("gaps {}, series {}", self.gaps, self.series)
    }

    fn is_empty(&self) -> bool {
        self.series == 0
    }
}

/// The time that all drawings show.
#[derive(Clone, Copy)]
struct Span {
    first: i64,
    last: i64,
    step: i64,
}

impl Span {
    fn of(held: &[Held]) -> Option<Self> {
        let all = || held.iter().flat_map(|held| held.values.iter().filter_map(seconds));
        let steps = held.iter().flat_map(|held| {
            held.values.windows(2).filter_map(|pair| Some(seconds(&pair[1])? - seconds(&pair[0])?))
        });
        Some(Self { first: all().min()?, last: all().max()?, step: steps.min().unwrap_or(1).max(1) })
    }

    /// The dot at which a moment is.
    fn dot(self, at: i64) -> usize {
        let dots = i64::try_from(COLUMNS * 2 - 1).unwrap_or(1);
        let dot = ((at - self.first) * dots).checked_div(self.last - self.first).unwrap_or(0);
        usize::try_from(dot).unwrap_or(0).min(COLUMNS * 2 - 1)
    }
}

fn seconds(value: &HistoryValue) -> Option<i64> {
    Some(value.from?.seconds)
}

/// The lines of one drawing.
fn draw(held: &Held, span: Span, zone: &TimeZone) -> Vec<String> {
    let series = &held.series;
    let finite = || held.values.iter().map(|value| value.value).filter(|value| value.is_finite());
    let least = finite().fold(f64::INFINITY, f64::min);
    let most = finite().fold(f64::NEG_INFINITY, f64::max);
    let mut lines = vec![heading(series, held.values.last())];
    if !least.is_finite() {
        lines.push(format!("{:>LABEL_COLUMNS$} │ nothing to draw", ""));
        return lines;
    }
    // From zero on, unless the values are far from it: then their changes would not be seen.
    let floor = if least >= 0.0 && least < most * 0.5 { 0.0 } else { least };
    let scale = Scale { floor, height: if most > floor { most - floor } else { 1.0 } };
    let mut canvas = Canvas { cells: [[0; COLUMNS]; LINES] };
    let mut before: Option<(i64, usize, usize)> = None;
    for value in &held.values {
        let Some(at) = seconds(value).filter(|_| value.value.is_finite()) else {
            before = None;
            continue;
        };
        let (x, y) = (span.dot(at), scale.dot(value.value));
        // Only neighbouring steps are joined.
        let joined = before.filter(|(before, ..)| at - before <= span.step);
        let (from_x, from_y) = joined.map_or((x, y), |(_, x, y)| (x, y));
        canvas.line((from_x, from_y), (x, y));
        before = Some((at, x, y));
    }
    for (line, text) in canvas.lines().into_iter().enumerate() {
        let label = match line {
            0 => cell(series, if most > floor { most } else { floor + scale.height }),
            line if line == LINES / 2 => cell(series, floor + scale.height / 2.0),
            line if line == LINES - 1 => cell(series, floor),
            _ => String::new(),
        };
        lines.push(format!("{label:>LABEL_COLUMNS$} ┤{text}").trim_end().to_owned());
    }
    lines.push(format!("{:>LABEL_COLUMNS$} └{}", "", axis(&held.values, span)));
    lines.push(format!("{:>LABEL_COLUMNS$}  {}", "", moments(span, zone)));
    lines
}

/// `CPU_USAGE(cores)  web-1 /a/b  last 0.250`.
fn heading(series: &HistorySeries, last: Option<&HistoryValue>) -> String {
    let title = title(&series.metric, series.aggregation, &series.unit);
    let labels: Vec<String> = labels_of(series).into_iter().flatten().collect();
    let labels = if labels.is_empty() { "all".to_owned() } else { labels.join(" ") };
    let last = last.map(|last| format!("  last {}", cell(series, last.value))).unwrap_or_default();
    crate::error::one_line(&format!("{title}  {labels}{last}"))
}

/// The time axis, broken where there is no value; `r` where a counter was reset.
fn axis(values: &[HistoryValue], span: Span) -> String {
    let mut marks = vec!['╌'; COLUMNS];
    for value in values {
        let Some(at) = seconds(value) else { continue };
        let end = span.dot((at + span.step).min(span.last)) / 2;
        for mark in &mut marks[span.dot(at) / 2..=end] {
            if *mark == '╌' {
                *mark = if value.gap { '┄' } else { '─' };
            }
        }
        if value.reset {
            marks[span.dot(at) / 2] = 'r';
        }
    }
    marks.into_iter().collect()
}

/// When the axis begins, its middle and its end.
fn moments(span: Span, zone: &TimeZone) -> String {
    let format = if span.last - span.first < 86_400 { "%H:%M:%S" } else { "%m-%d %H:%M" };
    let text = |seconds| {
        let moment = moment::from_proto(&prost_types::Timestamp { seconds, nanos: 0 });
        moment.map(|moment| moment.to_zoned(zone.clone()).strftime(format).to_string()).unwrap_or_default()
    };
    let middle = i64::midpoint(span.first, span.last);
    let side = COLUMNS / 3;
    let rest = COLUMNS - 2 * side;
    format!("{:<side$}{:^rest$}{:>side$}", text(span.first), text(middle), text(span.last))
}

/// From values to dots above the axis.
struct Scale {
    floor: f64,
    height: f64,
}

impl Scale {
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "a share of a few dots, which is rounded and not negative"
    )]
    fn dot(&self, value: f64) -> usize {
        let top = LINES * 4 - 1;
        ((value - self.floor) / self.height * top as f64).round().clamp(0.0, top as f64) as usize
    }
}

/// Dots, from the lower left on.
struct Canvas {
    cells: [[u32; COLUMNS]; LINES],
}

impl Canvas {
    fn dot(&mut self, x: usize, y: usize) {
        let from_top = LINES * 4 - 1 - y;
        self.cells[from_top / 4][x / 2] |= DOTS[x % 2][from_top % 4];
    }

    /// The dots between two, both included.
    fn line(&mut self, (from_x, from_y): (usize, usize), (x, y): (usize, usize)) {
        let count = x.abs_diff(from_x).max(y.abs_diff(from_y)).max(1);
        let between = |from: usize, to: usize, step: usize| {
            if to >= from { from + (to - from) * step / count } else { from - (from - to) * step / count }
        };
        for step in 0..=count {
            self.dot(between(from_x, x, step), between(from_y, y, step));
        }
    }

    fn lines(&self) -> Vec<String> {
        let glyph = |dots: &u32| match dots {
            0 => ' ',
            dots => char::from_u32(0x2800 + dots).unwrap_or(' '),
        };
        self.cells.iter().map(|line| line.iter().map(glyph).collect()).collect()
    }
}
