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

    /// Its median as a row.
    pub fn row(&self) -> Row {
        self.with_value(self.median())
    }

    /// Its largest value as a row.
    pub fn row_of_peak(&self) -> Row {
        self.with_value(self.values.iter().copied().fold(f64::NAN, f64::max))
    }

    /// Its median as a row, with its ratio to the median of `baseline`. `reach` is what that ratio may
    /// be at most.
    pub fn row_against(&self, baseline: &Self, reach: f64) -> Row {
        let ratio = self.median() / baseline.median();
        Row { compared: Some(Compared { baseline: baseline.name.clone(), ratio, reach }), ..self.row() }
    }

    fn with_value(&self, value: f64) -> Row {
        Row { name: self.name.clone(), unit: self.unit, value, compared: None }
    }

    /// The mean of the middle two where there are two; not a number where nothing was measured.
    fn median(&self) -> f64 {
        let mut sorted = self.values.clone();
        sorted.sort_by(f64::total_cmp);
        let middle = |at: usize| sorted.get(at).copied().unwrap_or(f64::NAN);
        f64::midpoint(middle(sorted.len().saturating_sub(1) / 2), middle(sorted.len() / 2))
    }
}

/// A line of the answer.
#[derive(Debug, Clone)]
pub struct Row {
    name: String,
    unit: &'static str,
    value: f64,
    compared: Option<Compared>,
}

#[derive(Debug, Clone)]
struct Compared {
    baseline: String,
    ratio: f64,
    reach: f64,
}

impl Compared {
    /// What was not measured was not reached.
    fn is_passed(&self) -> bool {
        self.ratio <= self.reach
    }
}

impl Row {
    /// Whether it has a reach and does not meet it.
    pub fn is_missed(&self) -> bool {
        self.compared.as_ref().is_some_and(|compared| !compared.is_passed())
    }

    /// The row for programs; null where it is compared with nothing.
    pub fn to_json(&self) -> Value {
        let compared = self.compared.as_ref();
        json!({
            "name": self.name,
            "value": self.value,
            "unit": self.unit,
            "baseline": compared.map(|compared| &compared.baseline),
            "ratio": compared.map(|compared| compared.ratio),
            "reach": compared.map(|compared| compared.reach),
            "pass": compared.map(Compared::is_passed),
        })
    }

    fn cells(&self) -> [String; 7] {
        let told =
            |tell: &dyn Fn(&Compared) -> String| self.compared.as_ref().map_or_else(|| "-".to_owned(), tell);
        [
            self.name.clone(),
            format!("{:.0}", self.value),
            self.unit.to_owned(),
            told(&|compared| compared.baseline.clone()),
            told(&|compared| format!("{:.3}", compared.ratio)),
            told(&|compared| format!("<= {:.3}", compared.reach)),
            told(&|compared| if compared.is_passed() { "yes" } else { "NO" }.to_owned()),
        ]
    }
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
    fn a_reach_is_met_up_to_and_including_itself() {
        let check = |values: &[f64], baseline: &[f64], missed| {
            let row = figure(values).row_against(&figure(baseline), 0.5);
            assert_eq!(row.is_missed(), missed, "{values:?} against {baseline:?}");
        };
        check(&[4.0], &[10.0], false);
        check(&[5.0], &[10.0], false);
        check(&[6.0], &[10.0], true);
        check(&[], &[10.0], true);
        check(&[5.0], &[], true);
    }

    #[test]
    fn programs_find_the_same_keys_in_every_row() {
        let alone = figure(&[1.0]).row().to_json();
        let compared = figure(&[1.0]).row_against(&figure(&[4.0]), 0.5).to_json();
        let expect = json!({
            "name": "walk", "value": 1.0, "unit": "ns",
            "baseline": null, "ratio": null, "reach": null, "pass": null,
        });
        assert_eq!(alone, expect);
        let expect = json!({
            "name": "walk", "value": 1.0, "unit": "ns",
            "baseline": "walk", "ratio": 0.25, "reach": 0.5, "pass": true,
        });
        assert_eq!(compared, expect);
    }
}
