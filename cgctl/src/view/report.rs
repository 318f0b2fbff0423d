//! What is said of the hosts' views.

use std::io::{self, Write};

use cgfleet_proto::v1::{HostError, View};
use serde::Serialize;
use tonic::Code;

use crate::{
    error::Error,
    exit::{Exit, HostOutcome, Tally},
    output::{
        Format, conclude,
        json::{self, Failure, OfHost, Summary, write_line},
        note,
        table::{Column, Table},
    },
    words,
};

/// What one host answered: the views that were made or are there; none, where one was removed.
pub(super) struct Answer {
    pub(super) host_id: String,
    pub(super) hostname: String,
    pub(super) outcome: Result<Vec<View>, HostError>,
}

pub(super) struct Report<W = Box<dyn Write>> {
    out: W,
    format: Format,
    hosts: Vec<Answer>,
    tally: Tally,
}

impl<W: Write> Report<W> {
    pub(super) fn new(out: W, format: Format) -> Self {
        Self { out, format, hosts: Vec::new(), tally: Tally::default() }
    }

    pub(super) fn add(&mut self, host: Answer) -> io::Result<()> {
        self.tally.add(match &host.outcome {
            Ok(_) => HostOutcome::Whole,
            Err(error) => {
                note(&format!("host {}: {}: {}", host.hostname, json::reason(error), error.message));
                HostOutcome::Failed(Exit::of_failure(Code::from(error.code)))
            }
        });
        if self.format == Format::Ndjson {
            write_line(&mut self.out, &of_host(&host))?;
            self.out.flush()?;
        }
        self.hosts.push(host);
        Ok(())
    }

    pub(super) fn finish(mut self, ended: Result<(), Error>) -> Result<Exit, Error> {
        let broke_off = match ended {
            Ok(()) => None,
            Err(error) if error.is_remote() && !self.hosts.is_empty() => Some(error),
            Err(error) => return Err(error),
        };
        self.hosts.sort_by(|a, b| (&a.hostname, &a.host_id).cmp(&(&b.hostname, &b.host_id)));
        match self.format {
            Format::Table => table(&self.hosts).write(&mut self.out)?,
            Format::Json => {
                let hosts = self.hosts.iter().map(of_host).collect();
                write_line(&mut self.out, &Document { hosts, summary: Summary::from(&self.tally) })?;
            }
            Format::Ndjson => {}
        }
        self.out.flush()?;
        Ok(conclude(&self.tally, broke_off.as_ref()))
    }
}

fn table(hosts: &[Answer]) -> Table {
    let mut table = Table::new([
        Column::text("HOST"),
        Column::text("VIEW"),
        Column::number("CGROUP_ID"),
        Column::text("ORDER"),
        Column::text("CGROUP"),
        Column::text("FILE"),
    ]);
    for host in hosts {
        for view in host.outcome.iter().flatten() {
            table.row([
                Some(host.hostname.clone()),
                Some(view.name.clone()),
                Some(view.cgroup_id.to_string()),
                words::order(view.order),
                Some(view.cgroup_path.clone()),
                Some(view.path.clone()),
            ]);
        }
    }
    table
}

#[derive(Serialize)]
struct Document<'a> {
    hosts: Vec<OfHost<'a, Said<'a>>>,
    summary: Summary,
}

#[derive(Serialize)]
#[serde(rename_all = "snake_case")]
enum Said<'a> {
    Views(Vec<Shown<'a>>),
    Error(Failure<'a>),
}

#[derive(Serialize)]
struct Shown<'a> {
    name: &'a str,
    path: &'a str,
    cgroup_path: &'a str,
    cgroup_id: u64,
    order: Option<String>,
    fields: &'a [String],
    link_id: u32,
    program_id: u32,
    fdinfo: &'a str,
}

fn of_host(host: &Answer) -> OfHost<'_, Said<'_>> {
    let value = match &host.outcome {
        Ok(views) => Said::Views(views.iter().map(shown).collect()),
        Err(error) => Said::Error(error.into()),
    };
    OfHost { host_id: &host.host_id, hostname: Some(&host.hostname), value }
}

fn shown(view: &View) -> Shown<'_> {
    Shown {
        name: &view.name,
        path: &view.path,
        cgroup_path: &view.cgroup_path,
        cgroup_id: view.cgroup_id,
        order: words::order(view.order),
        fields: view.read_mask.as_ref().map(|mask| mask.paths.as_slice()).unwrap_or_default(),
        link_id: view.link_id,
        program_id: view.program_id,
        fdinfo: &view.fdinfo,
    }
}

#[cfg(test)]
mod tests {
    use cgfleet_proto::v1::{CgroupOrder, ErrorReason};
    use expect_test::{Expect, expect};
    use prost_types::FieldMask;

    use super::*;

    fn check(format: Format, expect: &Expect) {
        let mut out = Vec::new();
        let mut report = Report::new(&mut out, format);
        let view = View {
            name: "web".into(),
            path: "/sys/fs/bpf/cgfleet/views/web".into(),
            cgroup_path: "/a".into(),
            cgroup_id: 42,
            order: CgroupOrder::DescendantsPre.into(),
            read_mask: Some(FieldMask { paths: vec!["cpu.usage_usec".into()] }),
            link_id: 7,
            program_id: 9,
            fdinfo: "link_id:\t7\n".into(),
        };
        let error = HostError {
            code: 9,
            reason: ErrorReason::ViewTooLarge.into(),
            message: "too large".into(),
            retry_after: None,
        };
        for (host, outcome) in [("web-2", Ok(vec![view])), ("web-1", Err(error))] {
            report.add(Answer { host_id: format!("id-{host}"), hostname: host.into(), outcome }).unwrap();
        }
        assert_eq!(report.finish(Ok(())).unwrap(), Exit::Partial);
        expect.assert_eq(&String::from_utf8(out).unwrap());
    }

    #[test]
    fn each_host_says_which_views_it_has_or_why_not() {
        check(
            Format::Json,
            &expect![[r#"
            {"hosts":[{"host_id":"id-web-1","hostname":"web-1","error":{"reason":"VIEW_TOO_LARGE","message":"too large","code":9}},{"host_id":"id-web-2","hostname":"web-2","views":[{"name":"web","path":"/sys/fs/bpf/cgfleet/views/web","cgroup_path":"/a","cgroup_id":42,"order":"pre","fields":["cpu.usage_usec"],"link_id":7,"program_id":9,"fdinfo":"link_id:\t7\n"}]}],"summary":{"hosts":2,"hosts_complete":1,"hosts_truncated":0,"hosts_failed":1}}
        "#]],
        );
    }
}
