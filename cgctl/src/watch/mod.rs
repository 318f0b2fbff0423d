//! `cgctl watch`: what changes in cgroups, as it changes, on one host, many or all.

mod held;
mod hosts;
mod lines;
mod objects;
mod positions;
mod source;

use std::io::Write;

use cgfleet_proto::v1::{
    Bookmark, FleetServiceSubscribeResponse, HostChange, RemovedValues, SubscribeSpec, WalkEnd, change_event,
    fleet_service_subscribe_response::Event,
};
use cgfleet_rpc::shutdown;

use self::{
    held::Held,
    hosts::Hosts,
    lines::{Kind, Lines},
    positions::Positions,
    source::Source,
};
use crate::{
    Calls,
    args::{Answerer, WatchArgs},
    error::Error,
    exit::Exit,
    output::{Format, conclude, json, note, stdout},
    words,
};

pub(crate) async fn run(args: WatchArgs, calls: &Calls) -> Result<Exit, Error> {
    let format = args.format;
    let counters = args.counters.form();
    let spec = SubscribeSpec {
        interval: args.interval.and_then(|interval| interval.try_into().ok()),
        target: args.target,
        max_depth: args.max_depth,
        workload: args.workload.into_filter(),
        read_mask: args.fields.read_mask(format),
        counters: counters.into(),
        dead_band: args.dead_band.unwrap_or_default(),
        ..SubscribeSpec::default()
    };
    let positions = Positions::load(args.positions, &spec)?;
    let (mut source, many) = match Answerer::from(args.hosts) {
        Answerer::Agent(address) => {
            (Source::of_agent(&calls.agent(&address)?, spec, &positions).await?, false)
        }
        Answerer::Server(selector) => {
            let many = selector.all || selector.hosts.len() > 1;
            (Source::of_server(&calls.server()?, selector, spec, &positions).await?, many)
        }
    };
    let hosts = Hosts::new(source.hosts.iter().map(|(host_id, _)| host_id.as_str()), args.ticks);
    let host_width = source.hosts.iter().map(|(_, name)| name.chars().count()).max().unwrap_or_default();
    let lines = Lines::new(args.fields.columns().all(), counters, many.then_some(host_width));
    let held = Held::default();
    let mut report = Report { out: stdout(format), format, lines, held, hosts, positions, any_told: false };
    let ended = report.take(&mut source, calls.is_timeout_given).await;
    match ended {
        // Standard output has not got what the positions would say that it has.
        Err(error @ (Error::Output(_) | Error::Positions { .. })) => return Err(error),
        _ => report.positions.write()?,
    }
    match ended {
        Ok(Ended::ByTheUser) => Ok(Exit::Complete),
        Ok(Ended::BySelf) => Ok(conclude(&report.hosts.tally(), None)),
        // Nothing but its time ends a watch that waits for nothing.
        Err(Error::TimedOut { .. }) if args.ticks.is_none() => Ok(Exit::Complete),
        Err(error) if report.any_told => {
            note(&format!("cgctl: {error}"));
            Ok(Exit::Partial)
        }
        Err(error) => Err(error),
    }
}

/// What ended a watch that did not fail.
enum Ended {
    /// A signal.
    ByTheUser,
    /// There is nothing more to wait for.
    BySelf,
}

/// What is printed of a stream.
struct Report<W> {
    out: W,
    format: Format,
    lines: Lines,
    held: Held,
    hosts: Hosts,
    positions: Positions,
    /// Whether anything came.
    any_told: bool,
}

impl<W: Write> Report<W> {
    /// Takes what comes, until the end.
    async fn take(&mut self, source: &mut Source, is_bounded: bool) -> Result<Ended, Error> {
        let stop = shutdown::on_signal().map_err(Error::Runtime)?;
        while !self.hosts.is_over() {
            let part = tokio::select! {
                part = source.next(is_bounded) => part?,
                () = stop.cancelled() => return Ok(Ended::ByTheUser),
            };
            self.any_told = true;
            self.part(part)?;
        }
        Ok(Ended::BySelf)
    }

    /// Prints what counts, now that this part came, and then says so.
    fn part(&mut self, part: FleetServiceSubscribeResponse) -> Result<(), Error> {
        let counts = self.held.take(part);
        for part in &counts {
            match self.format {
                Format::Ndjson => objects::write(&mut self.out, part)?,
                Format::Table | Format::Json => self.rows(part)?,
            }
        }
        self.out.flush()?;
        counts.iter().try_for_each(|part| self.say(part))
    }

    /// Notes what is no row, and how far the host is, behind all that was printed.
    fn say(&mut self, part: &FleetServiceSubscribeResponse) -> Result<(), Error> {
        let host = if part.hostname.is_empty() { &part.host_id } else { &part.hostname };
        match &part.event {
            Some(Event::Host(change)) => {
                note(&format!("host {host}: {}", told(change)));
                self.hosts.change(&part.host_id, change);
            }
            Some(Event::Change(change)) => match &change.event {
                Some(change_event::Event::Lost(lost)) => {
                    let count = lost.removed_cgroups;
                    note(&format!("host {host}: {count} cgroups were removed that nothing is known of"));
                }
                Some(change_event::Event::Synced(synced)) => {
                    self.tick(host, &part.host_id, &synced.bookmark.clone().unwrap_or_default())?;
                }
                Some(change_event::Event::Bookmark(bookmark)) => self.tick(host, &part.host_id, bookmark)?,
                _ => {}
            },
            None => {}
        }
        Ok(())
    }

    fn rows(&mut self, part: &FleetServiceSubscribeResponse) -> Result<(), Error> {
        let Some(Event::Change(change)) = &part.event else { return Ok(()) };
        let (lines, out, host) = (&mut self.lines, &mut self.out, &part.hostname);
        match &change.event {
            Some(change_event::Event::Snapshot(batch)) => {
                lines.write(out, host, batch.samples.iter().map(|sample| (Kind::Snapshot, sample)))?;
            }
            Some(change_event::Event::Update(batch)) => {
                lines.write(out, host, batch.samples.iter().map(|sample| (Kind::Update, sample)))?;
            }
            Some(change_event::Event::Removed(batch)) => {
                let rows = batch.cgroups.iter().filter_map(|removed| {
                    let is_final = removed.values() == RemovedValues::Final;
                    Some((Kind::Removed { is_final }, removed.sample.as_ref()?))
                });
                lines.write(out, host, rows)?;
            }
            _ => {}
        }
        Ok(())
    }

    fn tick(&mut self, host: &str, host_id: &str, bookmark: &Bookmark) -> Result<(), Error> {
        if bookmark.merged_ticks > 0 {
            note(&format!(
                "host {host}: tick {} has {} others in it",
                bookmark.sequence, bookmark.merged_ticks
            ));
        }
        let summary = bookmark.summary.as_ref();
        let cut = summary.filter(|summary| summary.end() == WalkEnd::Truncated);
        if self.hosts.tick(host_id, cut.is_some()) {
            let limit = cut.map(|summary| summary.truncated_by.as_str()).unwrap_or_default();
            note(&format!("host {host}: ticks are cut by {limit}"));
        }
        self.positions.advance(host_id, &bookmark.resume_token)
    }
}

/// What became of a host's stream, in one line.
fn told(change: &HostChange) -> String {
    let word = words::host_change(change.kind).unwrap_or_else(|| "unknown".to_owned());
    match &change.error {
        Some(error) => format!("{word}: {}: {}", json::reason(error), error.message),
        None => word,
    }
}

#[cfg(test)]
mod tests {
    use std::{env::temp_dir, process};

    use cgfleet_proto::v1::CounterForm;
    use expect_test::{Expect, expect};

    use super::{held::tests::part, *};

    /// What is printed when this comes of a host, and how far it is then said to be.
    fn check(format: Format, comes: &[&str], position: Option<&str>, expect: &Expect) {
        let file = temp_dir().join(format!("cgctl-watch-{}-{format:?}", process::id()));
        let positions = Positions::load(Some(file.clone()), &SubscribeSpec::default()).unwrap();
        let lines = Lines::new(Vec::new(), CounterForm::Delta, None);
        let hosts = Hosts::new(["a"].into_iter(), None);
        let held = Held::default();
        let mut report = Report { out: Vec::new(), format, lines, held, hosts, positions, any_told: false };
        for word in comes {
            report.part(part("a", word)).unwrap();
        }
        assert_eq!(report.positions.of("a"), position);
        let _ = std::fs::remove_file(&file);
        let text = String::from_utf8(report.out).unwrap();
        expect.assert_eq(&anstream::adapter::strip_str(&text).to_string());
    }

    #[test]
    fn what_a_break_makes_come_again_is_printed_once() {
        let comes = [
            "joined", "snapshot", "lost", "relist", "snapshot", "synced", "update", "removed", "lost",
            "back", "update", "removed", "first", "update",
        ];
        check(
            Format::Table,
            &comes,
            Some("first"),
            &expect![[r#"
                EVENT     CGROUP_ID  SOURCE  PATH
                SNAPSHOT         42  -       /a
                UPDATE           42  -       /a
                REMOVED~         42  -       /a
            "#]],
        );
        check(
            Format::Ndjson,
            &comes,
            Some("first"),
            &expect![[r#"
                {"host_id":"a","hostname":"a-name","event":"host","change":"joined"}
                {"host_id":"a","hostname":"a-name","event":"host","change":"lost"}
                {"host_id":"a","hostname":"a-name","event":"host","change":"relist"}
                {"host_id":"a","hostname":"a-name","event":"snapshot","cgroup_id":42,"hierarchy_id":0,"level":0,"path":"/a"}
                {"host_id":"a","hostname":"a-name","event":"synced","resume_token":"synced","agent_epoch":"","boot_id":"","sequence":0,"boottime_ns":0,"sampled_at":null,"merged_ticks":0}
                {"host_id":"a","hostname":"a-name","event":"host","change":"lost"}
                {"host_id":"a","hostname":"a-name","event":"host","change":"back"}
                {"host_id":"a","hostname":"a-name","event":"update","cgroup_id":42,"hierarchy_id":0,"level":0,"path":"/a"}
                {"host_id":"a","hostname":"a-name","event":"removed","values":null,"cgroup_id":42,"hierarchy_id":0,"level":0,"path":"/a"}
                {"host_id":"a","hostname":"a-name","event":"bookmark","resume_token":"first","agent_epoch":"","boot_id":"","sequence":0,"boottime_ns":0,"sampled_at":null,"merged_ticks":0}
            "#]],
        );
    }

    #[test]
    fn of_a_tick_that_is_not_whole_nothing_is_printed() {
        for format in [Format::Table, Format::Ndjson] {
            check(format, &["snapshot", "snapshot", "missing"], None, &expect![""]);
        }
    }
}
