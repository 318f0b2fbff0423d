//! Cgroup files as the catalogue names them, and how a value is found in their text. Pure.

use crate::Limit;

/// cgroup v1 shows no limit as the largest number of pages, in bytes (include/linux/page_counter.h,
/// PAGE_COUNTER_MAX): less than a page below this, and pages have 64 KiB at most.
const V1_UNLIMITED_BYTES_MIN: u64 = (1 << 63) - (64 << 10);

/// Where a cgroup file shows a metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KernelFile {
    /// The file's name in the cgroup's directory.
    pub file: &'static str,
    /// Where in the file.
    pub shape: Shape,
    /// The file's number is divided by this to come to the metric's unit.
    pub divisor: u64,
    /// False: what a root shows there was not measured.
    pub is_on_root: bool,
}

/// How a cgroup file is written (Documentation/admin-guide/cgroup-v2.rst, Interface Files).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// One number, or `max`.
    Value,
    /// A line `KEY NUMBER`.
    Flat(&'static str),
    /// `KEY=NUMBER` in the line of each device; their sum.
    Nested(&'static str),
    /// `total=NUMBER` in the line that begins so (Documentation/accounting/psi.rst).
    Stall(&'static str),
}

impl KernelFile {
    pub(super) const fn in_units_of(self, divisor: u64) -> Self {
        Self { divisor, ..self }
    }

    pub(super) const fn not_on_root(self) -> Self {
        Self { is_on_root: false, ..self }
    }

    /// The file and the key for people: `cpu.stat usage_usec`.
    pub fn to_text(&self) -> String {
        let Self { file, .. } = self;
        match self.shape {
            Shape::Value => (*file).to_owned(),
            Shape::Flat(key) | Shape::Nested(key) => format!("{file} {key}"),
            Shape::Stall(line) => format!("{file} {line} total"),
        }
    }

    /// The value in the text of such a file; `None` if it is not there. A file of devices that has none
    /// yet says that nothing was transferred.
    pub fn value_in(&self, text: &str) -> Option<u64> {
        let number = match self.shape {
            Shape::Value => return self.limit_in(text.trim()),
            Shape::Flat(key) => text.lines().find_map(|line| value_after(line, key, ' '))?,
            Shape::Nested(key) => {
                let words = text.lines().flat_map(str::split_whitespace);
                words.filter_map(|word| value_after(word, key, '=')).sum()
            }
            Shape::Stall(line) => {
                let line = text.lines().find_map(|found| found.strip_prefix(line))?;
                line.split_whitespace().find_map(|word| value_after(word, "total", '='))?
            }
        };
        Some(number / self.divisor)
    }

    fn limit_in(&self, text: &str) -> Option<u64> {
        if text == "max" {
            return Some(Limit::Max.into());
        }
        let number: u64 = text.parse().ok()?;
        Some(if number >= V1_UNLIMITED_BYTES_MIN { Limit::Max.into() } else { number / self.divisor })
    }
}

fn value_after(text: &str, key: &str, separator: char) -> Option<u64> {
    text.strip_prefix(key)?.strip_prefix(separator)?.trim_end().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_found_by_the_shape_of_its_file() {
        let check = |shape, divisor, text: &str, expect| {
            let file = KernelFile { file: "f", shape, divisor, is_on_root: true };
            assert_eq!(file.value_in(text), expect, "{shape:?} in {text:?}");
        };
        check(Shape::Value, 1, "4096\n", Some(4096));
        check(Shape::Value, 1000, "4096\n", Some(4));
        check(Shape::Value, 1, "max\n", Some(u64::MAX));
        check(Shape::Value, 1, "9223372036854771712\n", Some(u64::MAX));
        check(Shape::Value, 1, "9223372036854710271\n", Some(9_223_372_036_854_710_271));
        check(Shape::Value, 1, "\n", None);
        let stat = "usage_usec 30\nuser_usec 10\nnr_periods 0\n";
        check(Shape::Flat("user_usec"), 1, stat, Some(10));
        check(Shape::Flat("nr_periods"), 1, stat, Some(0));
        check(Shape::Flat("user"), 1, stat, None);
        check(Shape::Flat("system_usec"), 1, stat, None);
        let io = "8:0 rbytes=1 wbytes=20\n8:16 rbytes=300 wbytes=4000 dios=5\n";
        check(Shape::Nested("rbytes"), 1, io, Some(301));
        check(Shape::Nested("dios"), 1, io, Some(5));
        check(Shape::Nested("rbytes"), 1, "", Some(0));
        let stall = "some avg10=0.00 avg60=0.00 avg300=0.00 total=77\nfull avg10=1.00 avg60=0.00 avg300=0.00 total=5\n";
        check(Shape::Stall("some"), 1, stall, Some(77));
        check(Shape::Stall("full"), 1, stall, Some(5));
        check(Shape::Stall("full"), 1, "some avg10=0.00 total=77\n", None);
    }
}
