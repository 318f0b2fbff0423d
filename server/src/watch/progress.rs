//! How far a client was told of one host, and what it is told when the host's stream opens or breaks.
//!
//! Pure: no I/O, no clock, no randomness.

use cgfleet_proto::v1::{Bookmark, ChangeEvent, HostChange, HostChangeKind, HostError, change_event::Event};

/// One host's part in a stream.
#[derive(Debug)]
pub(super) struct Progress {
    /// The last bookmark, or what the client gave before there was one. `None`: from the start.
    position: Option<String>,
    was_open: bool,
    /// Why the position that there was cannot be used.
    given_up: Option<HostError>,
    /// Code and reason that the client was told, while there is no stream.
    lost: Option<(i32, i32)>,
}

impl Progress {
    /// Nothing was told yet; the client has what is before this position.
    pub(super) fn new(position: Option<String>) -> Self {
        Self { position, was_open: false, given_up: None, lost: None }
    }

    /// The token to open the stream with.
    pub(super) fn resume_token(&self) -> String {
        self.position.clone().unwrap_or_default()
    }

    /// The stream was opened with that token.
    pub(super) fn opened(&mut self) -> HostChange {
        self.lost = None;
        let error = self.given_up.take();
        let is_first = !std::mem::replace(&mut self.was_open, true);
        let kind = match &self.position {
            _ if error.is_some() => HostChangeKind::Relist,
            _ if is_first => HostChangeKind::Joined,
            Some(_) => HostChangeKind::Back,
            // It broke within its first snapshot, of which the client has a part.
            None => HostChangeKind::Relist,
        };
        HostChange { kind: kind.into(), error }
    }

    /// The agent does not know the position any more. False if there was none: then this is a failure.
    pub(super) fn expired(&mut self, error: &HostError) -> bool {
        let had_position = self.position.take().is_some();
        if had_position {
            self.given_up = Some(error.clone());
        }
        had_position
    }

    /// The stream broke, or could not be opened. `None` if the client knows.
    pub(super) fn failed(&mut self, error: HostError) -> Option<HostChange> {
        let why = (error.code, error.reason);
        if self.lost.replace(why) == Some(why) {
            return None;
        }
        Some(HostChange { kind: HostChangeKind::Lost.into(), error: Some(error) })
    }

    /// The client is told this. Whether a tick is whole with it.
    pub(super) fn passed(&mut self, change: &ChangeEvent) -> bool {
        let Some(Bookmark { resume_token, .. }) = bookmark(change) else { return false };
        self.position = Some(resume_token.clone());
        true
    }
}

fn bookmark(change: &ChangeEvent) -> Option<&Bookmark> {
    match change.event.as_ref()? {
        Event::Synced(synced) => synced.bookmark.as_ref(),
        Event::Bookmark(bookmark) => Some(bookmark),
        Event::Snapshot(_) | Event::Update(_) | Event::Removed(_) | Event::Lost(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use cgfleet_proto::v1::{ErrorReason, SampleBatch, Synced};

    use super::*;

    /// What happens to a host's stream.
    #[derive(Debug, Clone, Copy)]
    enum Happens {
        Opens,
        Rows,
        Synced(&'static str),
        Bookmark(&'static str),
        Fails(ErrorReason),
        Expires,
    }
    use ErrorReason::{HostUnreachable, InvalidField, ResumeExpired};
    use Happens::{Bookmark as Mark, Expires, Fails, Opens, Rows, Synced as Whole};

    const BREAKS: Happens = Fails(HostUnreachable);

    /// What the client is told, and the token of the next attempt.
    fn check(position: &str, happens: &[Happens], expect: &str, expect_token: &str) {
        let mut progress = Progress::new(Some(position.to_owned()).filter(|token| !token.is_empty()));
        let told: Vec<String> = happens.iter().filter_map(|happens| tell(&mut progress, *happens)).collect();
        assert_eq!((told.join(" ").as_str(), progress.resume_token().as_str()), (expect, expect_token));
    }

    fn tell(progress: &mut Progress, happens: Happens) -> Option<String> {
        let error = |reason: ErrorReason| HostError { reason: reason.into(), ..HostError::default() };
        let mark = |token: &str| Bookmark { resume_token: token.to_owned(), ..Bookmark::default() };
        let mut pass = |event| progress.passed(&ChangeEvent { event: Some(event) });
        let change = match happens {
            Opens => Some(progress.opened()),
            Fails(reason) => progress.failed(error(reason)),
            Expires => {
                let had_position = progress.expired(&error(ResumeExpired));
                return (!had_position).then(|| "refused".to_owned());
            }
            Rows => {
                assert!(!pass(Event::Update(SampleBatch::default())), "no tick ends with rows");
                None
            }
            Whole(token) => {
                assert!(pass(Event::Synced(Synced { bookmark: Some(mark(token)) })));
                None
            }
            Mark(token) => {
                assert!(pass(Event::Bookmark(mark(token))));
                None
            }
        };
        let HostChange { kind, error } = change?;
        let kind = HostChangeKind::try_from(kind).unwrap().as_str_name();
        let kind = kind.trim_start_matches("HOST_CHANGE_KIND_");
        Some(error.map_or_else(|| kind.to_owned(), |error| format!("{kind}({})", error.reason().as_wire())))
    }

    #[test]
    fn a_host_joins_once_and_is_back_behind_its_last_bookmark() {
        check("", &[], "", "");
        check("", &[Opens], "JOINED", "");
        check("", &[Opens, Rows, Whole("1"), Rows, Mark("2"), Rows], "JOINED", "2");
        check("", &[Opens, Whole("1"), Rows, BREAKS, Opens], "JOINED LOST(HOST_UNREACHABLE) BACK", "1");
        check("p", &[Opens], "JOINED", "p");
        check("p", &[Opens, Rows, BREAKS, Opens], "JOINED LOST(HOST_UNREACHABLE) BACK", "p");
    }

    #[test]
    fn rows_are_forgotten_whenever_a_stream_starts_anew_and_only_then() {
        let lost = "LOST(HOST_UNREACHABLE)";
        let restarted = format!("JOINED {lost} RELIST(RESUME_EXPIRED)");
        check("", &[Opens, Whole("1"), BREAKS, Expires, Opens], &restarted, "");
        check("p", &[Expires, Opens], "RELIST(RESUME_EXPIRED)", "");
        check("p", &[Expires, BREAKS, Opens], &format!("{lost} RELIST(RESUME_EXPIRED)"), "");
        check("", &[Opens, Rows, BREAKS, Opens], &format!("JOINED {lost} RELIST"), "");
        let twice = format!("{restarted} {lost} RELIST");
        check("", &[Opens, Whole("1"), BREAKS, Expires, Opens, Rows, BREAKS, Opens], &twice, "");
        let back = format!("{restarted} {lost} BACK");
        check("", &[Opens, Whole("1"), BREAKS, Expires, Opens, Whole("2"), BREAKS, Opens], &back, "2");
    }

    #[test]
    fn a_loss_is_told_once_for_each_reason() {
        let lost = "LOST(HOST_UNREACHABLE)";
        check("", &[BREAKS, BREAKS, BREAKS, Opens], &format!("{lost} JOINED"), "");
        check("", &[BREAKS, Fails(InvalidField), BREAKS], &format!("{lost} LOST(INVALID_FIELD) {lost}"), "");
        check("", &[Opens, BREAKS, Opens, BREAKS], &format!("JOINED {lost} RELIST {lost}"), "");
        check("", &[Expires], "refused", "");
    }
}
