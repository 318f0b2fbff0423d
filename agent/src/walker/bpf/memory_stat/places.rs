//! Finds the places of items in an array, by what the kernel says or by comparison.

use std::mem;

use cgfleet_ebpf::abi::{self, cg_memory_stat};
use cgfleet_model::{Metric, MetricGroup, MetricSet};

use super::{
    Method,
    items::{Item, ItemUnit},
    number_at,
};
use crate::kernel::Table;

/// The arrays and the file of one cgroup, read together.
#[derive(Debug, Clone)]
pub(in super::super) struct Observation {
    pub(in super::super) stat: cg_memory_stat,
    /// memory.stat before the arrays were read, and after.
    pub(in super::super) before: String,
    pub(in super::super) after: String,
    pub(in super::super) is_v2: bool,
}

/// What the kernel lets lie unflushed in a cgroup: a batch of 64 for each CPU (mm/memcontrol.c).
#[derive(Debug, Clone, Copy)]
pub(super) struct FlushThreshold {
    count: u64,
}

/// As many items must have been seen to be right before those are believed that cannot be seen.
const WITNESSES_MIN: usize = 3;
/// Of a table that is whole. An idle host has no more for events: page faults are all that it counts.
const WITNESSES_OF_WHOLE_MIN: usize = 1;

/// Smaller numbers than this are the same in many places.
const SAME_MIN: u64 = 32;

impl FlushThreshold {
    pub(super) fn of_cpus(cpus: usize) -> Self {
        Self { count: 64 * cpus as u64 }
    }

    /// In the unit of the item's metric. What is counted in bytes is charged in pages all the same.
    fn of(self, item: &Item) -> u64 {
        match item.unit {
            ItemUnit::Same if item.array == super::Array::State && item.is_bytes() => {
                self.count * ItemUnit::Pages.size()
            }
            unit => self.count * unit.size(),
        }
    }
}

impl Item {
    fn is_bytes(&self) -> bool {
        self.metric.info().unit == "bytes"
    }
}

/// The metrics that none of the files shows. Where no file was read, nothing is known of any.
pub(super) fn unshown(observations: &[Observation]) -> MetricSet {
    let is_shown = |metric: &Metric| {
        let shows = |Observation { after, is_v2, .. }: &Observation| {
            let info = metric.info();
            let file = if *is_v2 { info.v2() } else { info.v1() };
            file.and_then(|file| file.value_in(after)).is_some()
        };
        observations.is_empty() || observations.iter().any(shows)
    };
    MetricGroup::MemoryStat.metrics().filter(|metric| !is_shown(metric)).collect()
}

/// One way to understand what the kernel says about places.
#[derive(Debug, Clone, Copy)]
pub(super) enum Reading<'a> {
    /// An item's place is its number.
    Direct,
    /// An item's place is in the table at its number: in so many bytes, counted from this on.
    Table { table: Table<'a>, width: usize, base: u32 },
}

/// What an entry of a table says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Entry {
    Place(usize),
    /// That the item is in no array: 0 where places count from 1, else the largest number.
    Nowhere,
}

impl<'a> Reading<'a> {
    /// Every way that any kernel from 6.1 on has had. Tables were of int or of bytes, and began to count
    /// at 1 or at 0.
    pub(super) fn all(table: Option<Table<'a>>, is_direct: bool) -> Vec<Self> {
        let tables = table.into_iter().flat_map(|table| {
            [(4, 1), (4, 0), (1, 1), (1, 0)].map(|(width, base)| Self::Table { table, width, base })
        });
        is_direct.then_some(Self::Direct).into_iter().chain(tables).collect()
    }

    /// What is said of the item with this number.
    fn entry(self, number: usize) -> Option<Entry> {
        let Self::Table { table, width, base } = self else { return Some(Entry::Place(number)) };
        let bytes = table.bytes.get(number * width..(number + 1) * width)?;
        let number_of =
            |bytes: &[u8]| bytes.iter().rev().fold(0, |value, byte| value << 8 | u32::from(*byte));
        let value = number_of(bytes);
        let nowhere = if base == 0 { number_of(&[0xff; 4][..width]) } else { 0 };
        Some(if value == nowhere { Entry::Nowhere } else { Entry::Place((value - base) as usize) })
    }

    fn place(self, number: usize, words: usize) -> Option<usize> {
        match self.entry(number)? {
            Entry::Place(place) => (place < words).then_some(place),
            Entry::Nowhere => None,
        }
    }

    /// Whether it is a table, and from its first entry to its last gives each place of the array to one item
    /// and to every other item none. So no other memory of that length reads, nor the table in another way.
    fn is_whole(self, words: usize) -> bool {
        let Self::Table { table, .. } = self else { return false };
        let mut is_given = vec![false; words];
        let mut give = |place: usize| is_given.get_mut(place).is_some_and(|given| !mem::replace(given, true));
        let is_sound = (0..table.entries).all(|number| match self.entry(number) {
            Some(Entry::Place(place)) => give(place),
            Some(Entry::Nowhere) => true,
            None => false,
        });
        is_sound && is_given.iter().all(|given| *given)
    }
}

/// What an observation says of an item at a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    /// The file shows another number.
    Wrong,
    /// The file shows the same number, but so small a one that others may have it too.
    Possible,
    /// The file shows the same number.
    Right,
}

/// The items' places by the first reading that is right throughout, else by comparison.
pub(super) fn find(
    items: &[(&Item, usize)],
    readings: &[Reading<'_>],
    words: usize,
    observations: &[Observation],
    threshold: FlushThreshold,
) -> (Method, Vec<(abi::cg_memory_item, usize)>) {
    for reading in readings {
        let places: Vec<(&Item, usize)> =
            items.iter().filter_map(|(item, number)| Some((*item, reading.place(*number, words)?))).collect();
        let verdicts: Vec<Verdict> =
            places.iter().map(|(item, place)| verdict(item, *place, observations, threshold)).collect();
        let witnesses = verdicts.iter().filter(|verdict| **verdict == Verdict::Right).count();
        // A table of int that is read as one of bytes may look whole, but has no place for most items.
        let is_whole = reading.is_whole(words) && places.len() == items.len();
        let witnesses_min = if is_whole { WITNESSES_OF_WHOLE_MIN } else { WITNESSES_MIN };
        if witnesses >= witnesses_min && !verdicts.contains(&Verdict::Wrong) {
            return (Method::Kernel, places.iter().map(|(item, place)| (item.item, *place)).collect());
        }
    }
    let found: Vec<_> = items
        .iter()
        .filter_map(|(item, _)| {
            let not_wrong = (0..words).map(|place| (place, verdict(item, place, observations, threshold)));
            let mut not_wrong = not_wrong.filter(|(_, verdict)| *verdict != Verdict::Wrong);
            let (place, verdict) = not_wrong.next()?;
            (verdict == Verdict::Right && not_wrong.next().is_none()).then_some((item.item, place))
        })
        .collect();
    (if found.is_empty() { Method::None } else { Method::Calibration }, found)
}

fn verdict(item: &Item, place: usize, observations: &[Observation], threshold: FlushThreshold) -> Verdict {
    let allowed = threshold.of(item);
    let mut verdict = Verdict::Possible;
    for Observation { stat, before, after, is_v2 } in observations {
        let shown = |text: &str| item.key(*is_v2).and_then(|key| value_of(text, key));
        let (Some(before), Some(after)) = (shown(before), shown(after)) else { continue };
        let Some(number) = number_at(stat, item.array, place) else { return Verdict::Wrong };
        let number = number.saturating_mul(item.unit.size());
        let (least, most) = (before.min(after), before.max(after));
        if number < least.saturating_sub(allowed) || number > most.saturating_add(allowed) {
            return Verdict::Wrong;
        }
        // Others than the right one are rarely as large as that and as near, or the same to the last one.
        let is_same = number >= SAME_MIN * item.unit.size() && (before, after) == (number, number);
        if is_same || least > allowed.saturating_mul(4) {
            verdict = Verdict::Right;
        }
    }
    verdict
}

fn value_of(text: &str, key: &str) -> Option<u64> {
    let mut pairs = text.lines().filter_map(|line| line.split_once(' '));
    pairs.find(|(name, _)| *name == key).and_then(|(_, value)| value.parse().ok())
}

#[cfg(test)]
mod tests {
    use std::iter;

    use super::{super::ITEMS, *};

    const WORDS: usize = 12;
    const THRESHOLD: FlushThreshold = FlushThreshold { count: 128 };

    /// The first four items, in an array with other things between them: item n is at place 10 - 3n.
    fn observation(scale: i64) -> Observation {
        let mut stat = cg_memory_stat { state: [0; 64], events: [0; 48] };
        let mut text = String::new();
        for (number, item) in (0_i64..).zip(&ITEMS[..4]) {
            let count = (number + 1) * scale;
            let place = usize::try_from(10 - 3 * number).unwrap();
            stat.state[place] = count;
            stat.state[place - 1] = count * 7 + 100_000;
            let value = count.cast_unsigned() * item.unit.size();
            text.extend([item.v2_key, " ", &value.to_string(), "\n"]);
        }
        Observation { stat, before: text.clone(), after: text, is_v2: true }
    }

    fn check(observations: &[Observation], readings: &[Reading<'_>], expect: (Method, &[usize])) {
        let items: Vec<(&Item, usize)> = ITEMS[..4].iter().zip(0..).collect();
        let (method, found) = find(&items, readings, WORDS, observations, THRESHOLD);
        let places: Vec<usize> = found.iter().map(|(_, place)| *place).collect();
        assert_eq!((method, places.as_slice()), expect);
    }

    /// A table of so many entries that gives the first four items these places, and the rest none.
    fn table(places: [u32; 4], entries: usize, width: usize, base: u32) -> Vec<u8> {
        let nowhere = if base == 0 { u32::MAX } else { 0 };
        let given = places.map(|place| place + base).into_iter();
        let values = given.chain(iter::repeat(nowhere)).take(entries);
        values.flat_map(|value| value.to_le_bytes().into_iter().take(width)).collect()
    }

    fn readings(bytes: &[u8]) -> Vec<Reading<'_>> {
        Reading::all(Some(Table { bytes, entries: 16 }), false)
    }

    #[test]
    fn a_reading_is_taken_if_it_is_right_throughout() {
        let busy = [observation(100_000), observation(0)];
        for (width, base) in [(1, 0), (1, 1), (4, 0), (4, 1)] {
            let bytes = table([10, 7, 4, 1], 16, width, base);
            check(&busy, &readings(&bytes), (Method::Kernel, &[10, 7, 4, 1]));
        }
    }

    #[test]
    fn without_a_right_reading_the_only_possible_place_is_taken() {
        let wrong = [3_u8; 64];
        let table = Some(Table { bytes: &wrong, entries: 16 });
        let readings = Reading::all(table, true);
        check(&[observation(100_000)], &readings, (Method::Calibration, &[10, 7, 4, 1]));
        check(&[observation(100_000)], &[], (Method::Calibration, &[10, 7, 4, 1]));
    }

    #[test]
    fn what_is_not_certain_has_no_place() {
        check(&[], &[], (Method::None, &[]));
        check(&[observation(0)], &[], (Method::None, &[]));
        check(&[observation(10)], &[], (Method::None, &[]));
        let mut twice = observation(100_000);
        twice.stat.state[11] = twice.stat.state[10];
        check(&[twice], &[], (Method::Calibration, &[7, 4, 1]));
    }

    #[test]
    fn what_no_file_shows_is_not_a_metric_of_this_kernel() {
        assert!(unshown(&[]).is_empty(), "without a file, nothing is known");
        let unshown = unshown(&[observation(0), observation(1)]);
        for (item, is_shown) in ITEMS.iter().map(|item| (item, item.item < 4)) {
            assert_eq!(unshown.contains(item.metric), !is_shown, "{}", item.v2_key);
        }
    }

    #[test]
    fn a_reading_is_believed_by_smaller_numbers_that_are_the_same() {
        let bytes = table([10, 7, 4, 1], 16, 1, 0);
        let readings = readings(&bytes);
        check(&[observation(40)], &readings, (Method::Kernel, &[10, 7, 4, 1]));
        check(&[observation(5)], &readings, (Method::None, &[]));
        let mut flushed_late = observation(40);
        flushed_late.stat.state = flushed_late.stat.state.map(|count| count - count.signum());
        check(&[flushed_late], &readings, (Method::None, &[]));
    }

    #[test]
    fn a_table_that_is_wrong_once_is_not_believed() {
        let bytes = table([10, 7, 4, 2], 16, 1, 0);
        check(&[observation(100_000)], &readings(&bytes), (Method::Calibration, &[10, 7, 4, 1]));
    }

    /// All that an idle host counts is the first item.
    fn idle() -> Observation {
        let Observation { mut stat, .. } = observation(0);
        (stat.state, stat.state[3]) = ([0; 64], 5000);
        let text = format!("{} {}\n", ITEMS[0].v2_key, 5000 * ITEMS[0].unit.size());
        Observation { stat, before: text.clone(), after: text, is_v2: true }
    }

    fn check_idle(bytes: &[u8], words: usize, expect: (Method, &[usize])) {
        let items: Vec<(&Item, usize)> = ITEMS[..4].iter().zip(0..).collect();
        let (method, found) = find(&items, &readings(bytes), words, &[idle()], THRESHOLD);
        let places: Vec<usize> = found.iter().map(|(_, place)| *place).collect();
        assert_eq!((method, places.as_slice()), expect, "{bytes:?} for {words} places");
    }

    #[test]
    fn a_table_that_is_whole_is_believed_by_one_number() {
        let by_kernel: (Method, &[usize]) = (Method::Kernel, &[3, 0, 2, 1]);
        let by_comparison: (Method, &[usize]) = (Method::Calibration, &[3]);
        for (width, base) in [(1, 0), (1, 1), (4, 0), (4, 1)] {
            let whole = |places| table(places, 16, width, base);
            check_idle(&whole([3, 0, 2, 1]), 4, by_kernel);
            check_idle(&whole([2, 0, 3, 1]), 4, by_comparison);
            // A place is given twice, is missing, or is not in the array.
            check_idle(&whole([3, 0, 0, 1]), 4, by_comparison);
            check_idle(&whole([3, 0, 2, 1]), 5, by_comparison);
            check_idle(&whole([3, 0, 4, 1]), 4, by_comparison);
            let mut cut_short = whole([3, 0, 2, 1]);
            cut_short.pop();
            check_idle(&cut_short, 4, by_comparison);
            let mut other_memory = whole([3, 0, 2, 1]);
            other_memory[15 * width] = 0x55;
            check_idle(&other_memory, 4, by_comparison);
        }
    }
}
