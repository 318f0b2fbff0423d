//! In what form values are sent, and when one differs from what was sent.

use std::time::{Duration, SystemTime};

use cgfleet_model::{CounterReading, Metric, MetricKind, MetricSet, rate_per_second};
use cgfleet_proto::v1::CgroupSample;

/// In what form counters are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CounterForm {
    /// As the kernel has them.
    Cumulative,
    /// What was added.
    Delta,
    /// What was added, per second.
    Rate,
}

/// What a row is measured against.
#[derive(Debug, Clone, Copy)]
pub(super) enum Base<'a> {
    /// Nothing: the row is sent for the first time.
    None,
    /// The cgroup was made meanwhile.
    Birth,
    /// An earlier row.
    Row(&'a CgroupSample),
}

/// How a follower has values sent.
#[derive(Debug, Clone, Copy)]
pub(super) struct Form {
    pub(super) metrics: MetricSet,
    pub(super) counters: CounterForm,
}

impl Form {
    /// A value in this form; `elapsed` since the base was read.
    pub(super) fn value(
        self,
        metric: Metric,
        row: &CgroupSample,
        base: Base<'_>,
        elapsed: Duration,
    ) -> Option<u64> {
        let value = row.metric(metric)?;
        if self.counters == CounterForm::Cumulative || metric.info().kind != MetricKind::Counter {
            return Some(value);
        }
        let before = match base {
            Base::None => return None,
            Base::Birth => 0,
            Base::Row(base) => base.metric(metric)?,
        };
        match self.counters {
            CounterForm::Rate => {
                let reading = |at, value| CounterReading { at: SystemTime::UNIX_EPOCH + at, value };
                let rate = rate_per_second(reading(Duration::ZERO, before), reading(elapsed, value))?;
                #[allow(
                    clippy::cast_possible_truncation,
                    clippy::cast_sign_loss,
                    reason = "rounded; the cast saturates, and a rate is not negative"
                )]
                let rounded = rate.round() as u64;
                Some(rounded)
            }
            CounterForm::Cumulative | CounterForm::Delta => value.checked_sub(before),
        }
    }

    /// The row in this form. What is in a sample and no metric is as the kernel has it, or not there.
    pub(super) fn sample(self, row: &CgroupSample, base: Base<'_>, elapsed: Duration) -> CgroupSample {
        let mut sample = row.clone();
        sample.keep_only(self.metrics);
        if self.counters == CounterForm::Cumulative {
            return sample;
        }
        for metric in self.metrics.iter().filter(|metric| metric.info().kind == MetricKind::Counter) {
            if sample.metric(metric).is_some() {
                sample.set_metric(metric, self.value(metric, row, base, elapsed));
            }
        }
        sample.io.iter_mut().for_each(|io| io.devices.clear());
        sample.runqueue.iter_mut().for_each(|runqueue| runqueue.buckets.clear());
        sample.block_io.iter_mut().for_each(|block_io| block_io.buckets.clear());
        sample
    }
}

/// Whether a value differs from what was sent by more than this share of that.
pub(super) fn differs(value: Option<u64>, sent: Option<u64>, dead_band: f64) -> bool {
    match (value, sent) {
        (Some(value), Some(sent)) if dead_band > 0.0 => {
            #[allow(clippy::cast_precision_loss, reason = "a band is no exact thing")]
            let (difference, sent) = (value.abs_diff(sent) as f64, sent as f64);
            difference > dead_band * sent
        }
        (value, sent) => value != sent,
    }
}

#[cfg(test)]
mod tests {
    use super::{
        CounterForm::{Cumulative, Delta, Rate},
        *,
    };

    fn cpu(usage_usec: u64) -> CgroupSample {
        let mut sample = CgroupSample::default();
        sample.set_metric(Metric::CpuUsage, Some(usage_usec));
        sample.set_metric(Metric::MemoryCurrent, Some(usage_usec));
        sample
    }

    #[test]
    fn counters_have_forms_and_gauges_have_none() {
        let check = |counters, base: Base<'_>, elapsed_ms, now, expect: Option<u64>| {
            let form = Form { metrics: MetricSet::all(), counters };
            let sample = form.sample(&cpu(now), base, Duration::from_millis(elapsed_ms));
            assert_eq!(sample.metric(Metric::CpuUsage), expect, "{counters:?} {now} on {base:?}");
            assert_eq!(sample.metric(Metric::MemoryCurrent), Some(now));
        };
        let base = cpu(100);
        check(Cumulative, Base::None, 0, 150, Some(150));
        check(Cumulative, Base::Row(&base), 500, 150, Some(150));
        check(Delta, Base::None, 0, 150, None);
        check(Delta, Base::Birth, 500, 150, Some(150));
        check(Delta, Base::Row(&base), 500, 150, Some(50));
        check(Delta, Base::Row(&base), 500, 90, None);
        check(Rate, Base::None, 0, 150, None);
        check(Rate, Base::Birth, 500, 150, Some(300));
        check(Rate, Base::Row(&base), 500, 150, Some(100));
        check(Rate, Base::Row(&base), 3000, 101, Some(0));
        check(Rate, Base::Row(&base), 500, 90, None);
        check(Rate, Base::Row(&base), 0, 150, None);
    }

    #[test]
    fn a_dead_band_is_a_share_of_what_was_sent() {
        let check = |value, sent, dead_band, expect| {
            assert_eq!(differs(value, sent, dead_band), expect, "{value:?} after {sent:?}, {dead_band}");
        };
        check(Some(101), Some(100), 0.0, true);
        check(Some(100), Some(100), 0.0, false);
        check(Some(110), Some(100), 0.1, false);
        check(Some(111), Some(100), 0.1, true);
        check(Some(89), Some(100), 0.1, true);
        check(Some(1), Some(0), 0.5, true);
        check(Some(0), Some(0), 0.5, false);
        check(None, Some(0), 0.5, true);
        check(Some(0), None, 0.5, true);
        check(None, None, 0.5, false);
    }
}
