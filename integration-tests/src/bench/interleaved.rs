//! Measurements that take turns, so that what disturbs the machine disturbs them all.

use anyhow::{Context as _, Result};

use super::{Bench, Figure};

/// Orders of turns are random, for what went before warms or cools the caches, but the same every time.
const SEED: u64 = 0x6367_666c;

/// One measurement: a turn of it gives a value for each of its figures.
struct Measurement<'a> {
    figures: Vec<(String, &'static str)>,
    take: Box<dyn FnMut() -> Result<Vec<f64>> + 'a>,
}

/// Measurements of one subject.
pub(super) struct Interleaved<'a> {
    subject: String,
    measurements: Vec<Measurement<'a>>,
    before_each: Box<dyn FnMut() -> Result<()> + 'a>,
}

/// What they measured.
pub(super) struct Figures {
    subject: String,
    figures: Vec<Figure>,
}

impl<'a> Interleaved<'a> {
    pub(super) fn of(subject: impl Into<String>) -> Self {
        let before_each = Box::new(|| Ok(()));
        Self { subject: subject.into(), measurements: Vec::new(), before_each }
    }

    /// Does this before each turn of any.
    pub(super) fn before_each(&mut self, act: impl FnMut() -> Result<()> + 'a) {
        self.before_each = Box::new(act);
    }

    /// Adds a measurement of several figures: (name, unit). `take` gives as many values.
    pub(super) fn add_several(
        &mut self,
        figures: &[(&str, &'static str)],
        take: impl FnMut() -> Result<Vec<f64>> + 'a,
    ) {
        let figures = figures.iter().map(|(name, unit)| (format!("{}: {name}", self.subject), *unit));
        self.measurements.push(Measurement { figures: figures.collect(), take: Box::new(take) });
    }

    /// Adds a measurement of one figure.
    pub(super) fn add(&mut self, name: &str, unit: &'static str, mut take: impl FnMut() -> Result<f64> + 'a) {
        self.add_several(&[(name, unit)], move || Ok(vec![take()?]));
    }

    /// Measures so many rounds, in each of which every measurement has one turn.
    pub(super) fn run(mut self, bench: &Bench, rounds: usize) -> Result<Figures> {
        let mut random = fastrand::Rng::with_seed(SEED);
        let mut turns: Vec<usize> = (0..self.measurements.len()).collect();
        let taken = bench.rounds(rounds, || {
            random.shuffle(&mut turns);
            let mut taken = vec![Vec::new(); turns.len()];
            for turn in &turns {
                (self.before_each)()?;
                taken[*turn] = (self.measurements[*turn].take)()?;
            }
            Ok(taken)
        })?;
        let mut figures = Vec::new();
        for (number, measurement) in self.measurements.into_iter().enumerate() {
            for (at, (name, unit)) in measurement.figures.into_iter().enumerate() {
                let values = taken.iter().map(|round| round[number][at]).collect();
                figures.push(Figure::new(name, unit, values));
            }
        }
        Ok(Figures { subject: self.subject, figures })
    }
}

impl Figures {
    /// The figure of this name.
    pub(super) fn get(&self, name: &str) -> Result<&Figure> {
        let full_name = format!("{}: {name}", self.subject);
        let found = self.figures.iter().find(|figure| figure.name() == full_name);
        found.with_context(|| format!("{full_name} was not measured"))
    }
}
