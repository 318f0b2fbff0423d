//! What ends a command early, as one line for people and as an exit code.

use std::{error::Error as StdError, fmt, io, time::Duration};

use cgfleet_proto::v1::ErrorReason;
use cgfleet_rpc::{
    channel::InvalidTarget,
    trace::InitError,
    wire_error::{reason_of, retry_after_of},
};
use jiff::Timestamp;
use tonic::{Code, Status, TimeoutExpired};

use crate::{
    args::BothWays,
    exit::Exit,
    output::table::{elapsed, nanoseconds},
};

/// Who is spoken to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Peer {
    /// The server, at this address.
    Server(String),
    /// One host's agent, at this address.
    Agent(String),
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Server(address) => write!(f, "the server at {address}"),
            Self::Agent(address) => write!(f, "the agent at {address}"),
        }
    }
}

impl Peer {
    /// The flag that names it.
    fn flag(&self) -> &'static str {
        match self {
            Self::Server(_) => "--server",
            Self::Agent(_) => "--agent",
        }
    }

    /// The error that a failed call to this peer is.
    pub(crate) fn error(&self, status: &Status, timeout: Duration) -> Error {
        let (peer, code, reason) = (self.clone(), status.code(), reason_of(status));
        if reason != ErrorReason::Unspecified {
            return Error::Refused {
                code,
                reason: reason.as_wire().to_owned(),
                message: one_line(status.message()) + &again(retry_after_of(status)),
            };
        }
        match status.source() {
            _ if is_timeout(status) => Error::TimedOut { peer, timeout },
            // A status that was received has no source; one that the transport made up has.
            Some(source) => Error::Unreachable { peer, cause: root_cause(source) },
            None if code == Code::Unimplemented => Error::NotOffered { peer },
            None => {
                let reason = format!("{code:?}");
                Error::Refused { code, reason, message: one_line(status.message()) }
            }
        }
    }
}

/// What ends a command early.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// An address that no channel can be made to.
    #[error("{flag}: {source}")]
    Address {
        /// The flag that gave it.
        flag: &'static str,
        /// What is wrong with it.
        source: InvalidTarget,
    },
    /// The past begins after it ends.
    #[error("--since {since} is not before --until {until}; move one of them")]
    TimeRange {
        /// Where it begins.
        since: Timestamp,
        /// Where it ends.
        until: Timestamp,
    },
    /// Ticks of all cgroups are asked for.
    #[error(
        "which cgroups? name a <TARGET>, or choose by --glob, --below, --pod, --container or --unit; with --step or \
         --agg all of a host's are taken"
    )]
    NoCgroups,
    /// The file of an export cannot be written.
    #[error("--out {path}: {cause}")]
    Export {
        /// The file.
        path: String,
        /// Why.
        cause: io::Error,
    },
    /// A collector is to be switched on and off.
    #[error(transparent)]
    BothWays(#[from] BothWays),
    /// The log filter cannot be read.
    #[error("CGFLEET_LOG: {0}")]
    Log(#[from] InitError),
    /// The connection cannot be made, or broke.
    #[error("cannot reach {peer}: {cause}; start it or name another with {}", peer.flag())]
    Unreachable {
        /// Who.
        peer: Peer,
        /// Why.
        cause: String,
    },
    /// The overall deadline passed.
    #[error("no whole answer from {peer} within {}; --timeout allows more", humantime::format_duration(*timeout))]
    TimedOut {
        /// Who.
        peer: Peer,
        /// What was allowed.
        timeout: Duration,
    },
    /// The other side speaks gRPC, but not this service.
    #[error("{peer} does not offer this call; is {} the right address, and of the same version?", peer.flag())]
    NotOffered {
        /// Who.
        peer: Peer,
    },
    /// The other side refused.
    #[error("{reason}: {message}")]
    Refused {
        /// The gRPC code.
        code: Code,
        /// The stable reason, or the code's name if there is none.
        reason: String,
        /// One line for people.
        message: String,
    },
    /// The stream ended before the answer did.
    #[error("{peer} ended its answer early; ask again")]
    CutShort {
        /// Who.
        peer: Peer,
    },
    /// The answer is too large to be collected.
    #[error("more than {rows_max} rows, the most that this output collects; use -o ndjson, which streams")]
    TooManyRows {
        /// The limit.
        rows_max: usize,
    },
    /// The file of positions cannot be read or written.
    #[error("--positions {path}: {cause}")]
    Positions {
        /// The file.
        path: String,
        /// Why.
        cause: io::Error,
    },
    /// The file of positions is of no use here.
    #[error("--positions {path}: {cause}; name another file, or remove this one to begin anew")]
    NoPositions {
        /// The file.
        path: String,
        /// Why.
        cause: String,
    },
    /// Standard output refuses.
    #[error("write the output: {0}")]
    Output(#[from] io::Error),
    /// The process cannot start.
    #[error("start the async runtime: {0}")]
    Runtime(io::Error),
}

impl Error {
    /// How a command ends that got nothing but this error.
    pub(crate) fn exit(&self) -> Exit {
        match self {
            // The reader has seen enough, as in `cgctl query … | head`.
            Self::Output(error) if error.kind() == io::ErrorKind::BrokenPipe => Exit::Complete,
            Self::Output(_) | Self::Runtime(_) | Self::Positions { .. } | Self::Export { .. } => {
                Exit::Failure
            }
            Self::Address { .. }
            | Self::TimeRange { .. }
            | Self::NoCgroups
            | Self::BothWays(_)
            | Self::Log(_)
            | Self::NotOffered { .. }
            | Self::NoPositions { .. }
            | Self::TooManyRows { .. } => Exit::Usage,
            Self::Unreachable { .. } | Self::TimedOut { .. } => Exit::Unreachable,
            Self::Refused { code, .. } => Exit::of_failure(*code),
            Self::CutShort { .. } => Exit::Partial,
        }
    }

    /// Whether the answer broke off on its way, so that what came before is still worth showing.
    pub(crate) fn is_remote(&self) -> bool {
        matches!(
            self,
            Self::Unreachable { .. } | Self::TimedOut { .. } | Self::Refused { .. } | Self::CutShort { .. }
        )
    }
}

/// `; try again in 250 ms`, if it is known when.
pub(crate) fn again(retry_after: Option<Duration>) -> String {
    let again = retry_after.map(|after| format!("; try again in {}", elapsed(nanoseconds(after))));
    again.unwrap_or_default()
}

/// Whether a deadline passed, here or on the other side: tonic says CANCELLED for both.
fn is_timeout(status: &Status) -> bool {
    match (status.code(), status.source()) {
        (Code::DeadlineExceeded, _) | (Code::Cancelled, None) => true,
        (Code::Cancelled, Some(source)) => chain(source).any(<dyn StdError>::is::<TimeoutExpired>),
        _ => false,
    }
}

fn chain<'a>(error: &'a (dyn StdError + 'static)) -> impl Iterator<Item = &'a (dyn StdError + 'static)> {
    std::iter::successors(Some(error), |error| (*error).source())
}

/// The innermost cause, in the words of the operating system where it is its.
fn root_cause(error: &(dyn StdError + 'static)) -> String {
    let mut cause = String::new();
    for error in chain(error) {
        cause = match error.downcast_ref::<io::Error>() {
            // Without "(os error 111)".
            Some(io) if io.raw_os_error().is_some() => {
                let text = io.to_string();
                text.split(" (os error").next().unwrap_or_default().to_lowercase()
            }
            _ => error.to_string(),
        };
    }
    one_line(&cause)
}

/// A text from another host, made safe for a terminal: what is no printable character becomes `?`.
pub(crate) fn one_line(text: &str) -> String {
    text.chars().map(|char| if char.is_control() { '?' } else { char }).collect()
}

#[cfg(test)]
mod tests {
    use cgfleet_rpc::wire_error::WireError;

    use super::*;

    fn check(status: &Status, expect_exit: Exit, expect: &str) {
        let server = Peer::Server("http://127.0.0.1:7400".to_owned());
        let error = server.error(status, Duration::from_secs(30));
        assert_eq!((error.to_string().as_str(), error.exit()), (expect, expect_exit));
    }

    #[test]
    fn a_refused_call_says_its_reason_and_ends_by_its_code() {
        let refusal = |code, reason| Status::from(WireError::new(code, reason, "what and why"));
        check(&refusal(Code::NotFound, ErrorReason::HostUnknown), Exit::Usage, "HOST_UNKNOWN: what and why");
        check(
            &refusal(Code::InvalidArgument, ErrorReason::HostAmbiguous),
            Exit::Usage,
            "HOST_AMBIGUOUS: what and why",
        );
        check(
            &refusal(Code::Unavailable, ErrorReason::StoreUnavailable),
            Exit::Unreachable,
            "STORE_UNAVAILABLE: what and why",
        );
        check(
            &refusal(Code::ResourceExhausted, ErrorReason::LimitExceeded),
            Exit::Partial,
            "LIMIT_EXCEEDED: what and why",
        );
        let limited = WireError::new(Code::ResourceExhausted, ErrorReason::FlushRateLimited, "what and why")
            .retry_after(Duration::from_millis(9));
        check(&limited.into(), Exit::Partial, "FLUSH_RATE_LIMITED: what and why; try again in 9.00 ms");
        check(&Status::internal("a\nb"), Exit::Partial, "Internal: a?b");
    }

    #[test]
    fn a_call_that_got_no_answer_says_how_to_mend_it() {
        check(
            &Status::cancelled("Timeout expired"),
            Exit::Unreachable,
            "no whole answer from the server at http://127.0.0.1:7400 within 30s; --timeout allows more",
        );
        check(
            &Status::unimplemented(""),
            Exit::Usage,
            "the server at http://127.0.0.1:7400 does not offer this call; is --server the right address, and of the same version?",
        );
        check(
            &Status::from_error(Box::new(TimeoutExpired(()))),
            Exit::Unreachable,
            "no whole answer from the server at http://127.0.0.1:7400 within 30s; --timeout allows more",
        );
        let refused = io::Error::from_raw_os_error(111);
        check(
            &Status::from_error(Box::new(refused)),
            Exit::Unreachable,
            "cannot reach the server at http://127.0.0.1:7400: connection refused; start it or name another with --server",
        );
    }

    #[test]
    fn a_closed_pipe_is_no_failure() {
        let output = |kind| Error::Output(io::Error::from(kind)).exit();
        assert_eq!(output(io::ErrorKind::BrokenPipe), Exit::Complete);
        assert_eq!(output(io::ErrorKind::StorageFull), Exit::Failure);
    }
}
