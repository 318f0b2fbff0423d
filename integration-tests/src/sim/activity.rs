//! How cgroups count: what a leaf does in a stretch of time. Pure.
//!
//! A leaf has a character that stays: how much CPU it takes, how often it reads and writes, how its memory breathes. What
//! it does in a stretch of time is in proportion to that time, and scatters around its character.

use std::time::Duration;

use fastrand::Rng;

const PAGE_BYTES: u64 = 4096;
/// The period of a bandwidth limit (include/linux/cgroup.h: cpu.max's default).
const PERIOD: Duration = Duration::from_millis(100);

/// How lively a tree is.
#[derive(Debug, Clone, Copy)]
pub struct Activity {
    /// The share of cgroups of which something changes from one tick to the next, ancestors included; 0 to 1.
    pub changing: f64,
    /// Pods that end and are replaced by others in a second.
    pub pods_replaced_per_second: f64,
    /// Services that are started anew in a second: another cgroup of the same path, which counts from 0.
    pub services_restarted_per_second: f64,
}

/// What a leaf does, as long as it lives.
#[derive(Debug, Clone)]
pub(super) struct Character {
    /// How often it does something at all, beside others.
    pub(super) weight: f64,
    /// CPUs that it keeps busy when it does.
    cpus: f64,
    writes_per_second: f64,
    reads_per_second: f64,
    /// Pages around which its memory stays.
    memory_pages: u64,
    /// How often its memory is another one than a tick before.
    memory_moves: f64,
    discards: bool,
    /// How often a period ends before it is done; `None` without a bandwidth limit.
    throttled: Option<f64>,
}

/// What is added in a stretch of time.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Growth {
    pub(super) cpu_usec: u64,
    pub(super) nr_periods: u64,
    pub(super) nr_throttled: u64,
    pub(super) throttled_usec: u64,
    pub(super) memory_bytes: i64,
    pub(super) rbytes: u64,
    pub(super) wbytes: u64,
    pub(super) rios: u64,
    pub(super) wios: u64,
    pub(super) dbytes: u64,
    pub(super) dios: u64,
    pub(super) pids: i64,
}

impl Character {
    /// One as they come: a few do most of the work.
    pub(super) fn new(rng: &mut Rng) -> Self {
        let writes_per_second = log_uniform(rng, 0.01, 20.0);
        Self {
            weight: log_uniform(rng, 0.01, 1.0),
            cpus: log_uniform(rng, 0.0005, 0.5),
            writes_per_second,
            reads_per_second: writes_per_second * log_uniform(rng, 0.001, 1.0),
            memory_pages: whole(log_uniform(rng, 256.0, 131_072.0)),
            memory_moves: 0.2 + 0.7 * rng.f64(),
            discards: rng.f64() < 0.02,
            throttled: (rng.f64() < 0.5).then(|| log_uniform(rng, 0.001, 0.2)),
        }
    }

    /// The memory that it has at first.
    pub(super) fn memory_bytes(&self) -> u64 {
        self.memory_pages * PAGE_BYTES
    }

    /// Whether it has a bandwidth limit.
    pub(super) fn is_limited(&self) -> bool {
        self.throttled.is_some()
    }

    /// What it does in this time, having so much memory and so many tasks.
    pub(super) fn work(&self, rng: &mut Rng, elapsed: Duration, memory_bytes: u64, pids: u64) -> Growth {
        let seconds = elapsed.as_secs_f64();
        let mut growth = Growth {
            // Whoever ran did so for a microsecond at least.
            cpu_usec: whole(seconds * 1e6 * self.cpus * scatter(rng)).max(1),
            memory_bytes: self.memory(rng, memory_bytes),
            pids: if rng.f64() < 0.05 { tasks(rng, pids) } else { 0 },
            ..Growth::default()
        };
        if let Some(throttled) = self.throttled {
            growth.nr_periods = some(rng, seconds / PERIOD.as_secs_f64());
            growth.nr_throttled = some(rng, throttled * real(growth.nr_periods)).min(growth.nr_periods);
            growth.throttled_usec = (0..growth.nr_throttled.min(16)).map(|_| rng.u64(200..60_000)).sum();
        }
        growth.wios = some(rng, self.writes_per_second * seconds);
        growth.wbytes = (0..growth.wios.min(64)).map(|_| PAGE_BYTES * (1 + rng.u64(0..8))).sum();
        growth.rios = some(rng, self.reads_per_second * seconds);
        growth.rbytes = (0..growth.rios.min(64)).map(|_| PAGE_BYTES * (1 + rng.u64(0..32))).sum();
        if self.discards {
            growth.dios = some(rng, seconds / 60.0);
            growth.dbytes = growth.dios * (1 << 20);
        }
        growth
    }

    /// Some pages more or less, back towards what is usual.
    fn memory(&self, rng: &mut Rng, bytes: u64) -> i64 {
        if rng.f64() >= self.memory_moves {
            return 0;
        }
        let (pages, usual) = ((bytes / PAGE_BYTES).cast_signed(), self.memory_pages.cast_signed());
        let stride = 1 + usual / 256;
        let step = rng.i64(-stride..=stride) + (usual - pages) / 16;
        step.max(1 - pages) * PAGE_BYTES.cast_signed()
    }
}

/// A task more or less, and one at least.
fn tasks(rng: &mut Rng, pids: u64) -> i64 {
    if pids > 1 && rng.bool() { -1 } else { 1 }
}

/// Half to one and a half.
fn scatter(rng: &mut Rng) -> f64 {
    0.5 + rng.f64()
}

/// How many there are of what comes so often on average.
fn some(rng: &mut Rng, mean: f64) -> u64 {
    let mean = if mean > 2.0 { mean * scatter(rng) } else { mean };
    whole(mean) + u64::from(rng.f64() < mean.fract())
}

fn log_uniform(rng: &mut Rng, least: f64, most: f64) -> f64 {
    (least.ln() + rng.f64() * (most.ln() - least.ln())).exp()
}

#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "cut on purpose; none is negative"
)]
fn whole(value: f64) -> u64 {
    value as u64
}

#[allow(clippy::cast_precision_loss, reason = "a mean is no exact thing")]
fn real(value: u64) -> f64 {
    value as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_done_is_in_proportion_to_the_time() {
        let mut rng = Rng::with_seed(1);
        let character = Character { cpus: 0.5, writes_per_second: 4.0, ..Character::new(&mut rng) };
        let mut done_in = |elapsed, times| {
            let work = |_| character.work(&mut rng, elapsed, character.memory_bytes(), 3);
            let growths: Vec<Growth> = (0..times).map(work).collect();
            let sum = |of: fn(&Growth) -> u64| growths.iter().map(of).sum::<u64>();
            (sum(|growth| growth.cpu_usec), sum(|growth| growth.wios))
        };
        for (elapsed_ms, times) in [(50, 20_000), (1_000, 1_000), (10_000, 100)] {
            let (cpu_usec, wios) = done_in(Duration::from_millis(elapsed_ms), times);
            assert!((450_000_000..550_000_000).contains(&cpu_usec), "{cpu_usec} at {elapsed_ms} ms");
            assert!((3_500..4_500).contains(&wios), "{wios} at {elapsed_ms} ms");
        }
    }

    #[test]
    fn memory_stays_around_what_is_usual() {
        let mut rng = Rng::with_seed(2);
        for _ in 0..20 {
            let character = Character::new(&mut rng);
            let mut bytes = character.memory_bytes();
            for _ in 0..10_000 {
                let growth = character.work(&mut rng, Duration::from_secs(1), bytes, 3);
                bytes = bytes.saturating_add_signed(growth.memory_bytes);
                assert!(bytes > 0 && bytes < 2 * character.memory_bytes() + (64 << 12), "{bytes}");
            }
        }
    }
}
