//! Figures and the rows they become: medians, ratios and whether a reach was met. Pure.

use comfy_table::{CellAlignment, Table, presets};
use serde_json::{Value, json};

/// Something measured once a round.
#[derive(Debug, Clone)]
pub struct Figure {
    name: String,
    unit: &'static str,
    values: Vec<f64>,
}

impl Figure {
    /// A figure and what each round measured; less is better.
    pub fn new(name: String, unit: &'static str, values: Vec<f64>) -> Self {
        Self { name, unit, values }
    }

    /// What it is called.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What each round measured.
    pub fn values(&self) -> Vec<f64> {
        self.values.clone()
    }

    /// Its median as a row.
    pub fn row(&self) -> Row {
        self.with_value(self.median())
    }

    /// Its largest value as a row.
    pub fn row_of_peak(&self) -> Row {
        self.with_value(self.values.iter().copied().fold(f64::NAN, f64::max))
    }

    /// Its median as a row, with its ratio to the median of `baseline`.
    pub fn row_against(&self, baseline: &Self) -> Row {
        let ratio = self.median() / baseline.median();
        Row { ratio: Some(Ratio { baseline: baseline.name.clone(), ratio }), ..self.row() }
    }

    /// Another figure, so many times as large.
    #[must_use]
    pub fn times(&self, factor: f64, name: String, unit: &'static str) -> Self {
        Self { name, unit, values: self.values.iter().map(|value| value * factor).collect() }
    }

    fn with_value(&self, value: f64) -> Row {
        Row { name: self.name.clone(), unit: self.unit, value, ratio: None, reach: None }
    }

    /// The mean of the middle two where there are two; not a number where nothing was measured.
    fn median(&self) -> f64 {
        let mut sorted = self.values.clone();
        sorted.sort_by(f64::total_cmp);
        let middle = |at: usize| sorted.get(at).copied().unwrap_or(f64::NAN);
        f64::midpoint(middle(sorted.len().saturating_sub(1) / 2), middle(sorted.len() / 2))
    }
}

/// The value that 99 of 100 do not exceed; not a number where nothing was measured.
pub(super) fn p99(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let at = (values.len() * 99).div_ceil(100);
    values.get(at.saturating_sub(1)).copied().unwrap_or(f64::NAN)
}

/// A line of the answer.
#[derive(Debug, Clone)]
pub struct Row {
    name: String,
    unit: &'static str,
    value: f64,
    ratio: Option<Ratio>,
    reach: Option<f64>,
}

#[derive(Debug, Clone)]
struct Ratio {
    baseline: String,
    ratio: f64,
}

impl Row {
    /// Judges it: the most that its ratio may be, or, where it has none, its value.
    #[must_use]
    pub fn reach(self, most: f64) -> Self {
        Self { reach: Some(most), ..self }
    }

    /// Whether it has a reach and does not meet it.
    pub fn is_missed(&self) -> bool {
        self.pass() == Some(false)
    }

    /// What was not measured was not reached.
    fn pass(&self) -> Option<bool> {
        let judged = self.ratio.as_ref().map_or(self.value, |ratio| ratio.ratio);
        self.reach.map(|most| judged <= most)
    }

    /// The row for programs; null where it is compared with nothing, and where it has no reach.
    pub fn to_json(&self) -> Value {
        json!({
            "name": self.name,
            "value": self.value,
            "unit": self.unit,
            "baseline": self.ratio.as_ref().map(|ratio| &ratio.baseline),
            "ratio": self.ratio.as_ref().map(|ratio| ratio.ratio),
            "reach": self.reach,
            "pass": self.pass(),
        })
    }

    fn cells(&self) -> [String; 7] {
        let or_none = |told: Option<String>| told.unwrap_or_else(|| "-".to_owned());
        let reach = |most| match self.ratio {
            Some(_) => format!("<= {most:.3}"),
            None => format!("<= {}", shown(most)),
        };
        [
            self.name.clone(),
            shown(self.value),
            self.unit.to_owned(),
            or_none(self.ratio.as_ref().map(|ratio| ratio.baseline.clone())),
            or_none(self.ratio.as_ref().map(|ratio| format!("{:.3}", ratio.ratio))),
            or_none(self.reach.map(reach)),
            or_none(self.pass().map(|pass| if pass { "yes" } else { "NO" }.to_owned())),
        ]
    }
}

/// Three digits, more only where there are more before the point.
fn shown(value: f64) -> String {
    let decimals = match value.abs() {
        value if value >= 100.0 || value.fract() == 0.0 => 0,
        value if value >= 10.0 => 1,
        _ => 2,
    };
    format!("{value:.decimals$}")
}

/// The rows for people.
pub(super) fn table(rows: &[Row]) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(["figure", "value", "unit", "baseline", "ratio", "reach", "pass"]);
    table.add_rows(rows.iter().map(Row::cells));
    for (number, column) in table.column_iter_mut().enumerate() {
        let is_number = matches!(number, 1 | 4 | 5);
        let side = if is_number { CellAlignment::Right } else { CellAlignment::Left };
        column.set_padding((0, 2)).set_cell_alignment(side);
    }
    let lines: Vec<String> = table.lines().map(|line| line.trim_end().to_owned()).collect();
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figure(values: &[f64]) -> Figure {
        Figure::new("walk".to_owned(), "ns", values.to_vec())
    }

    #[test]
    fn a_row_shows_the_middle_round() {
        let check = |values: &[f64], expect: f64| {
            assert!((figure(values).row().value - expect).abs() < 1e-9, "{values:?}");
        };
        check(&[7.0], 7.0);
        check(&[900.0, 1.0, 3.0], 3.0);
        check(&[4.0, 900.0, 1.0, 2.0], 3.0);
    }

    #[test]
    fn one_of_a_hundred_may_be_above_the_99th_percentile() {
        let up_to = |most: u32| (1..=most).rev().map(f64::from).collect::<Vec<_>>();
        let check = |values: Vec<f64>, expect: f64| assert!((p99(values) - expect).abs() < 1e-9, "{expect}");
        check(up_to(1), 1.0);
        check(up_to(99), 99.0);
        check(up_to(100), 99.0);
        check(up_to(1000), 990.0);
        assert!(p99(Vec::new()).is_nan());
    }

    #[test]
    fn a_reach_is_met_up_to_and_including_itself() {
        let check = |values: &[f64], baseline: &[f64], missed| {
            let row = figure(values).row_against(&figure(baseline)).reach(0.5);
            assert_eq!(row.is_missed(), missed, "{values:?} against {baseline:?}");
        };
        check(&[4.0], &[10.0], false);
        check(&[5.0], &[10.0], false);
        check(&[6.0], &[10.0], true);
        check(&[], &[10.0], true);
        check(&[5.0], &[], true);
    }

    #[test]
    fn a_reach_without_a_baseline_is_of_the_value() {
        let check = |values: &[f64], missed| {
            assert_eq!(figure(values).row().reach(5.0).is_missed(), missed, "{values:?}");
        };
        check(&[5.0], false);
        check(&[5.1], true);
        check(&[], true);
        assert!(!figure(&[]).row().is_missed());
    }

    #[test]
    fn programs_find_the_same_keys_in_every_row() {
        let alone = figure(&[1.0]).row().to_json();
        let expect = json!({
            "name": "walk", "value": 1.0, "unit": "ns",
            "baseline": null, "ratio": null, "reach": null, "pass": null,
        });
        assert_eq!(alone, expect);
        let compared = figure(&[1.0]).row_against(&figure(&[4.0])).reach(0.5).to_json();
        let expect = json!({
            "name": "walk", "value": 1.0, "unit": "ns",
            "baseline": "walk", "ratio": 0.25, "reach": 0.5, "pass": true,
        });
        assert_eq!(compared, expect);
    }

    #[test]
    fn people_see_three_digits() {
        let check = |value, expect: &str| assert_eq!(shown(value), expect);
        check(1234.5, "1234");
        check(12.345, "12.3");
        check(0.625, "0.62");
        check(96.0, "96");
    }
}
