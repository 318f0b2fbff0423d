//! What a guest's serial port tells of its tests.

use std::fmt;

/// init.sh opens its own lines with this.
const OURS: &str = "cgfleet-vm: ";

/// A test opens lines with this that are to be shown with its counts, such as those of a table.
const SHOWN: &str = "cgfleet-show: ";

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
    shown: Vec<String>,
}

impl Report {
    pub(super) fn read(log: &str) -> Self {
        let mut report = Self::default();
        for line in log.lines() {
            let line = line.trim_end();
            if let Some(line) = line.strip_prefix(OURS) {
                report.read_ours(&line.split(' ').collect::<Vec<_>>());
            } else if let Some(test) = report.tests.last_mut() {
                test.read(line);
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

    /// Why this guest is no success. Where nothing chose among the tests, every executable runs some.
    pub(super) fn complaint(&self, are_chosen: bool) -> Option<String> {
        self.complaint_unless(|exit_code| exit_code == 0).or_else(|| {
            let idle = self.tests.iter().find(|test| test.passed == 0 && !are_chosen);
            let idle = idle.map(|test| format!("{} ran no test", test.name));
            let is_idle = self.tests.iter().all(|test| test.passed == 0);
            idle.or_else(|| is_idle.then(|| "no test was run".to_owned()))
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

impl TestExecutable {
    /// A line of its own: `test result: ok. 9 passed; 0 failed; …`, or one to be shown.
    fn read(&mut self, line: &str) {
        if let Some(shown) = line.strip_prefix(SHOWN) {
            self.shown.push(shown.to_owned());
        }
        let Some(result) = line.strip_prefix("test result: ") else { return };
        let count = |what: &str| {
            let mut words = result.split([' ', ';', '.']).rev().skip_while(|word| *word != what);
            words.nth(1).and_then(|number| number.parse().ok()).unwrap_or_default()
        };
        (self.passed, self.failed) = (count("passed"), count("failed"));
    }
}

impl fmt::Display for TestExecutable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, passed, failed, took, shown, .. } = self;
        write!(f, "{name:<16} {passed:>3} passed {failed:>3} failed {took:>7.1} s")?;
        shown.iter().try_for_each(|line| write!(f, "\n    {line}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOOTED: &str = "cgfleet-vm: kernel 6.1.0-56\r\ncgfleet-vm: begin walk 2.50\r\n";

    fn check(log: &str, counts: &[(u32, u32)], complaint: Option<&str>) {
        let report = Report::read(log);
        let read: Vec<_> = report.tests.iter().map(|test| (test.passed, test.failed)).collect();
        assert_eq!((read.as_slice(), report.complaint(true).as_deref()), (counts, complaint), "{log}");
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

        let two =
            [BOOTED, passed, ended, "cgfleet-vm: begin v1 12.75\ncgfleet-vm: end v1 0 13.0\n", done].concat();
        check(&two, &[(9, 0), (0, 0)], None);
        assert_eq!(Report::read(&two).complaint(false).as_deref(), Some("v1 ran no test"));
    }

    #[test]
    fn what_a_test_wants_shown_follows_its_counts() {
        let log = [BOOTED, "cgfleet-show: case  answer\r\nnoise\ncgfleet-show: preorder  P, C1\n"].concat();
        let shown = Report::read(&log).tests[0].to_string();
        assert_eq!(shown.lines().skip(1).collect::<Vec<_>>(), ["    case  answer", "    preorder  P, C1"]);
    }

    #[test]
    fn seconds_are_the_guests() {
        let report = Report::read(&[BOOTED, "cgfleet-vm: end walk 0 12.75\n"].concat());
        assert_eq!(report.release, "6.1.0-56");
        assert_eq!(report.tests[0].to_string(), "walk               0 passed   0 failed    10.2 s");
    }
}
