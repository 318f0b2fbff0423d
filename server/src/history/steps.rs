//! The steps of a range: equal stretches that begin at whole multiples of their length.

/// Steps of a range, in microseconds since the Unix epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Steps {
    since: i64,
    until: i64,
    /// `None` is one step, the range as it is.
    length: Option<i64>,
}

impl Steps {
    /// One step, which is the range.
    pub fn whole(since: i64, until: i64) -> Self {
        Self { since, until, length: None }
    }

    /// Steps of this length; the range grows to whole ones.
    pub fn aligned(since: i64, until: i64, length: i64) -> Self {
        let since = since.div_euclid(length).saturating_mul(length);
        let until = until.saturating_add(length - 1).div_euclid(length).saturating_mul(length);
        Self { since, until, length: Some(length) }
    }

    /// The range as one step.
    #[must_use]
    pub fn as_whole(self) -> Self {
        Self::whole(self.since, self.until)
    }

    /// The first moment.
    pub fn since(self) -> i64 {
        self.since
    }

    /// The first moment behind all.
    pub fn until(self) -> i64 {
        self.until
    }

    /// Their length.
    pub fn length(self) -> Option<i64> {
        self.length
    }

    /// How many there are.
    pub fn count(self) -> usize {
        let count = self.length.map_or(1, |length| (self.until - self.since) / length);
        usize::try_from(count).unwrap_or(usize::MAX)
    }

    /// In which step a moment is; `None` before and behind the range.
    pub fn of(self, at: i64) -> Option<usize> {
        if !(self.since..self.until).contains(&at) {
            return None;
        }
        usize::try_from(self.length.map_or(0, |length| (at - self.since) / length)).ok()
    }

    /// When a step begins.
    pub fn from(self, step: usize) -> i64 {
        let offset = i64::try_from(step).unwrap_or(i64::MAX).saturating_mul(self.length.unwrap_or(0));
        self.since.saturating_add(offset)
    }

    /// The steps that an open stretch of time has a part of.
    pub fn touched(self, after: i64, before: i64) -> std::ops::Range<usize> {
        let (first, last) =
            (after.saturating_add(1).max(self.since), before.saturating_sub(1).min(self.until - 1));
        match (self.of(first), self.of(last)) {
            (Some(first), Some(last)) if first <= last => first..last + 1,
            _ => 0..0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_begin_at_whole_multiples() {
        let check = |since, until, length, expect: (i64, i64, usize)| {
            let steps = Steps::aligned(since, until, length);
            assert_eq!((steps.since(), steps.until(), steps.count()), expect, "{since} {until} {length}");
        };
        check(100, 200, 60, (60, 240, 3));
        check(60, 120, 60, (60, 120, 1));
        check(61, 120, 60, (60, 120, 1));
        check(60, 121, 60, (60, 180, 2));
        check(-1, 1, 60, (-60, 60, 2));
    }

    #[test]
    fn a_moment_is_in_one_step_or_in_none() {
        let steps = Steps::aligned(60, 180, 60);
        let of: Vec<_> = [59, 60, 119, 120, 179, 180].map(|at| steps.of(at)).into();
        assert_eq!(of, [None, Some(0), Some(0), Some(1), Some(1), None]);
        assert_eq!([0, 1].map(|step| steps.from(step)), [60, 120]);
        let whole = Steps::whole(61, 179);
        assert_eq!([60, 61, 178, 179].map(|at| whole.of(at)), [None, Some(0), Some(0), None]);
    }

    #[test]
    fn a_gap_touches_the_steps_between_its_ends() {
        let steps = Steps::aligned(60, 240, 60);
        let check =
            |after, before, expect| assert_eq!(steps.touched(after, before), expect, "{after} {before}");
        check(0, 60, 0..0);
        check(0, 62, 0..1);
        check(60, 120, 0..1);
        check(70, 130, 0..2);
        check(130, 1_000, 1..3);
        check(238, 241, 2..3);
        check(239, 1_000, 0..0);
        check(240, 300, 0..0);
    }
}
