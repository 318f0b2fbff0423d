//! What a guest's serial port tells of its tests.

use std::fmt;

/// init.sh opens its own lines with this.
const OURS: &str = "cgfleet-vm: ";

/// Whether the line is init.sh's own.
pub(super) fn is_ours(line: &str) -> bool {
    line.starts_with(OURS)
}

/// A guest's tests, as far as it got.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Report {
    pub(super) release: String,
    pub(super) tests: Vec<TestExecutable>,
    /// Whether the guest reached its end.
    pub(super) is_complete: bool,
}

/// One test executable, run.
#[derive(Debug, Default, PartialEq)]
pub(super) struct TestExecutable {
    name: String,
    /// `None` if the guest ended first.
    exit_code: Option<u32>,
    passed: u32,
    failed: u32,
    begun_at: f64,
    /// In seconds, by the guest's clock.
    took: f64,
}

impl Report {
    pub(super) fn read(log: &str) -> Self {
        let mut report = Self::default();
        for line in log.lines() {
            match line.trim_end().strip_prefix(OURS) {
                Some(line) => report.read_ours(&line.split(' ').collect::<Vec<_>>()),
                None => report.read_libtest(line),
            }
        }
        report
    }

    fn read_ours(&mut self, words: &[&str]) {
        match (words, self.tests.last_mut()) {
            (["kernel", release], _) => (*release).clone_into(&mut self.release),
            (["begin", name, at], _) => self.tests.push(TestExecutable {
                name: (*name).to_owned(),
                begun_at: at.parse().unwrap_or_default(),
                ..TestExecutable::default()
            }),
            (["end", name, exit_code, at], Some(test)) if test.name == *name => {
                test.exit_code = exit_code.parse().ok();
                test.took = at.parse::<f64>().unwrap_or_default() - test.begun_at;
            }
            (["done"], _) => self.is_complete = true,
            _ => {}
        }
    }

    /// `test result: ok. 9 passed; 0 failed; …`
    fn read_libtest(&mut self, line: &str) {
        let (Some(result), Some(test)) = (line.strip_prefix("test result: "), self.tests.last_mut()) else {
            return;
        };
        let count = |what: &str| {
            let mut words = result.split([' ', ';', '.']).rev().skip_while(|word| *word != what);
            words.nth(1).and_then(|number| number.parse().ok()).unwrap_or_default()
        };
        (test.passed, test.failed) = (count("passed"), count("failed"));
    }

    /// Why this guest is no success.
    pub(super) fn complaint(&self) -> Option<String> {
        self.complaint_unless(|exit_code| exit_code == 0).or_else(|| {
            let passed: u32 = self.tests.iter().map(|test| test.passed).sum();
            (passed == 0).then(|| "no test was run".to_owned())
        })
    }

    /// What failed, or was cut short, where these exit codes are no failures.
    pub(super) fn complaint_unless(&self, is_success: impl Fn(u32) -> bool) -> Option<String> {
        let is_failure = |test: &&TestExecutable| !test.exit_code.is_some_and(&is_success);
        if let Some(test) = self.tests.iter().find(is_failure) {
            return Some(match test.exit_code {
                Some(code) => format!("{} exited with {code}", test.name),
                None => format!("{} did not end", test.name),
            });
        }
        (!self.is_complete).then(|| "the guest did not reach its end".to_owned())
    }
}

impl fmt::Display for TestExecutable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, passed, failed, took, .. } = self;
        write!(f, "{name:<16} {passed:>3} passed {failed:>3} failed {took:>7.1} s")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOOTED: &str = "cgfleet-vm: kernel 6.1.0-56\r\ncgfleet-vm: begin walk 2.50\r\n";

    fn check(log: &str, counts: &[(u32, u32)], complaint: Option<&str>) {
        let report = Report::read(log);
        let read: Vec<_> = report.tests.iter().map(|test| (test.passed, test.failed)).collect();
        assert_eq!((read.as_slice(), report.complaint().as_deref()), (counts, complaint), "{log}");
    }

    #[test]
    fn a_guest_succeeds_when_it_ends_and_every_executable_did() {
        let passed = "test result: ok. 9 passed; 0 failed; 0 ignored; 0 measured; 2 filtered out\r\n";
        let ended = "cgfleet-vm: end walk 0 12.75\r\n";
        let done = "cgfleet-vm: done\r\n";
        check(&[BOOTED, passed, ended, done].concat(), &[(9, 0)], None);
        check(&[BOOTED, passed, ended].concat(), &[(9, 0)], Some("the guest did not reach its end"));
        check(&[BOOTED, passed].concat(), &[(9, 0)], Some("walk did not end"));
        check("", &[], Some("the guest did not reach its end"));

        let failed = "test result: FAILED. 8 passed; 1 failed; 0 ignored\ncgfleet-vm: end walk 101 9.0\n";
        check(&[BOOTED, failed, done].concat(), &[(8, 1)], Some("walk exited with 101"));
        let none = "test result: ok. 0 passed; 0 failed; 0 ignored; 9 filtered out\n";
        check(&[BOOTED, none, ended, done].concat(), &[(0, 0)], Some("no test was run"));
    }

    #[test]
    fn seconds_are_the_guests() {
        let report = Report::read(&[BOOTED, "cgfleet-vm: end walk 0 12.75\n"].concat());
        assert_eq!(report.release, "6.1.0-56");
        assert_eq!(report.tests[0].to_string(), "walk               0 passed   0 failed    10.2 s");
    }
}
