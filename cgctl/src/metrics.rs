//! `cgctl metrics`: the metrics that exist, as the server knows them.

use cgfleet_proto::v1::{ListMetricsRequest, Metric};
use serde::Serialize;

use crate::{
    error::Error,
    exit::Exit,
    output::{
        Format, stdout,
        table::{Column, Table},
        write_list,
    },
    remote::Server,
    words,
};

pub(crate) async fn run(format: Format, server: &Server) -> Result<Exit, Error> {
    let answer = server
        .call(ListMetricsRequest {}, async |mut client, request| client.list_metrics(request).await)
        .await?;
    let lines: Vec<Line> = answer.metrics.iter().map(Line::from).collect();
    write_list(&mut stdout(format), format, "metrics", &lines, || table(&answer.metrics))?;
    Ok(Exit::Complete)
}

/// A metric as JSON.
#[derive(Serialize)]
struct Line<'a> {
    name: &'a str,
    unit: &'a str,
    kind: Option<String>,
    #[serde(skip_serializing_if = "str::is_empty")]
    kernel_file: &'a str,
    description: &'a str,
}

impl<'a> From<&'a Metric> for Line<'a> {
    fn from(metric: &'a Metric) -> Self {
        Self {
            name: &metric.name,
            unit: &metric.unit,
            kind: words::metric_kind(metric.kind),
            kernel_file: &metric.kernel_file,
            description: &metric.description,
        }
    }
}

fn table(metrics: &[Metric]) -> Table {
    let mut table = Table::new(["NAME", "UNIT", "KIND", "KERNEL_FILE", "DESCRIPTION"].map(Column::text));
    for Metric { name, unit, kind, kernel_file, description } in metrics.iter().cloned() {
        let kernel_file = Some(kernel_file).filter(|file| !file.is_empty());
        table.row([Some(name), Some(unit), words::metric_kind(kind), kernel_file, Some(description)]);
    }
    table
}
