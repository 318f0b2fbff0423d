//! The exit codes, and what decides them. One rule serves a refused call and a failed host alike.

use std::{fmt::Write as _, process::ExitCode};

use tonic::Code;

/// The table of [`Exit`] as `--help` shows it.
pub(crate) const EXIT_CODES: &str = "\
Exit codes:
  0  complete: every chosen host answered, and whole
  1  cgctl itself failed, for example in writing its output
  2  usage: the command has to be changed; also when every host, or the server, refuses it as
     bad input (no such host, no such cgroup on any host)
  3  partial: the answer is not whole: a host failed, has no such cgroup or cut its answer, or
     the answer broke off
  4  nothing reachable: the server, the agent or every chosen host is down or too slow, or no
     host has registered";

/// How `cgctl` ends, for scripts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Every chosen host answered, and whole.
    Complete = 0,
    /// `cgctl` itself failed; says nothing of the fleet.
    Failure = 1,
    /// The command has to be changed: repeating it does not help.
    Usage = 2,
    /// The answer is not whole.
    Partial = 3,
    /// Nobody answered: repeating the command may help.
    Unreachable = 4,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

impl Exit {
    /// What a failure with this gRPC code means when nothing else was answered.
    pub(crate) fn of_failure(code: Code) -> Self {
        match code {
            // tonic ends a call whose deadline has passed with CANCELLED.
            Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled => Self::Unreachable,
            Code::InvalidArgument | Code::NotFound | Code::Unimplemented => Self::Usage,
            _ => Self::Partial,
        }
    }
}

/// How one host answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum HostOutcome {
    /// All that was asked for.
    Whole,
    /// Less, because of a limit of the host's.
    Cut,
    /// It failed; alone it would have ended the command like this.
    Failed(Exit),
}

/// How many hosts answered how.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) complete: u32,
    pub(crate) truncated: u32,
    pub(crate) failed: u32,
    /// What the failures have in common.
    failed_with: Option<Exit>,
}

impl Tally {
    pub(crate) fn add(&mut self, outcome: HostOutcome) {
        match outcome {
            HostOutcome::Whole => self.complete += 1,
            HostOutcome::Cut => self.truncated += 1,
            HostOutcome::Failed(exit) => {
                self.failed += 1;
                let alike = self.failed_with.is_none_or(|before| before == exit);
                self.failed_with = Some(if alike { exit } else { Exit::Partial });
            }
        }
    }

    pub(crate) fn hosts(&self) -> u32 {
        self.complete + self.truncated + self.failed
    }

    /// How the command ends.
    pub(crate) fn exit(&self) -> Exit {
        if self.hosts() == 0 {
            return Exit::Unreachable;
        }
        if self.complete == self.hosts() {
            return Exit::Complete;
        }
        let nobody_answered = self.failed == self.hosts();
        self.failed_with.filter(|_| nobody_answered).unwrap_or(Exit::Partial)
    }

    /// "97/100 hosts, 1 truncated, 2 failed".
    pub(crate) fn footer(&self) -> String {
        let mut text = format!("{}/{} hosts", self.complete, self.hosts());
        for (count, what) in [(self.truncated, "truncated"), (self.failed, "failed")] {
            if count > 0 {
                // Writing to a String cannot fail.
                let _ = write!(text, ", {count} {what}");
            }
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::{HostOutcome::*, *};

    fn tally(outcomes: &[HostOutcome]) -> Tally {
        let mut tally = Tally::default();
        for outcome in outcomes {
            tally.add(*outcome);
        }
        tally
    }

    #[test]
    fn the_exit_code_tells_a_bad_command_from_a_part_answer_from_no_answer() {
        let check = |outcomes: &[HostOutcome], expect| {
            assert_eq!(tally(outcomes).exit(), expect, "{outcomes:?}");
        };
        let failed = |code| Failed(Exit::of_failure(code));
        let (gone, down, slow) =
            (failed(Code::NotFound), failed(Code::Unavailable), failed(Code::DeadlineExceeded));
        let unsupported = failed(Code::FailedPrecondition);
        check(&[], Exit::Unreachable);
        check(&[Whole], Exit::Complete);
        check(&[Whole, Whole], Exit::Complete);
        check(&[Whole, Cut], Exit::Partial);
        check(&[Cut], Exit::Partial);
        check(&[Whole, down], Exit::Partial);
        check(&[Cut, down], Exit::Partial);
        check(&[Whole, gone], Exit::Partial);
        check(&[gone], Exit::Usage);
        check(&[gone, gone, failed(Code::InvalidArgument)], Exit::Usage);
        check(&[down, slow, down], Exit::Unreachable);
        check(&[down, gone], Exit::Partial);
        check(&[down, gone, down], Exit::Partial);
        check(&[unsupported], Exit::Partial);
        check(&[unsupported, down], Exit::Partial);
        check(&[failed(Code::Internal), failed(Code::ResourceExhausted)], Exit::Partial);
    }

    #[test]
    fn the_footer_names_only_what_there_is() {
        let failed = Failed(Exit::Unreachable);
        assert_eq!(tally(&[Whole, Whole]).footer(), "2/2 hosts");
        assert_eq!(tally(&[Whole, failed]).footer(), "1/2 hosts, 1 failed");
        assert_eq!(tally(&[Cut, failed, failed]).footer(), "0/3 hosts, 1 truncated, 2 failed");
    }
}
