//! Parquet files: rows are held until they are a row group. Timestamps are UTC microseconds; what is absent is null.

use std::{
    io::{self, Write},
    sync::Arc,
};

use cgfleet_model::Metric;
use cgfleet_proto::v1::{HistoryPoint, HistorySeries, HistoryValue, query_history_response::Event};
use parquet::{
    basic::{Compression, LogicalType, Repetition, TimeUnit, Type as Physical},
    data_type::{BoolType, ByteArray, ByteArrayType, DoubleType, Int64Type},
    errors::ParquetError,
    file::{properties::WriterProperties, writer::SerializedFileWriter},
    schema::types::Type,
};

use crate::{
    error::Error,
    history::{Taker, series::word},
};

/// The most rows and the most values of a row group, and so in memory: some 50 MB.
const GROUP_ROWS_MAX: usize = 65_536;
const GROUP_VALUES_MAX: usize = 3_000_000;

/// A column of the row group that is being gathered.
enum Column {
    Moments(Cells<i64>),
    /// Unsigned, which Parquet stores as the same bits.
    Numbers(Cells<i64>),
    Floats(Cells<f64>),
    Texts(Cells<ByteArray>),
    Flags(Cells<bool>),
}

/// Values, and for each row whether there is one.
struct Cells<T> {
    values: Vec<T>,
    are_there: Vec<i16>,
}

impl<T> Default for Cells<T> {
    fn default() -> Self {
        Self { values: Vec::new(), are_there: Vec::new() }
    }
}

impl<T> Cells<T> {
    fn push(&mut self, value: Option<T>) {
        self.are_there.push(value.is_some().into());
        self.values.extend(value);
    }

    fn take(&mut self) -> (Vec<T>, Vec<i16>) {
        (std::mem::take(&mut self.values), std::mem::take(&mut self.are_there))
    }
}

/// Writes an answer.
pub(in crate::history) struct Export<W: Write + Send> {
    writer: Option<SerializedFileWriter<W>>,
    columns: Vec<Column>,
    /// Of ticks; series have none.
    metrics: Vec<Metric>,
    series: Option<HistorySeries>,
    rows_held: usize,
    group_rows: usize,
    rows: usize,
    gaps: usize,
}

impl<W: Write + Send> Export<W> {
    /// A row a tick and cgroup, a column a metric.
    pub(in crate::history) fn of_points(out: W, metrics: Vec<Metric>) -> Result<Self, Error> {
        let mut fields = vec![
            field("tick_at", Field::Moment),
            field("host_id", Field::Text),
            field("hostname", Field::Text),
            field("cgroup_id", Field::Number),
            field("path", Field::Text),
        ];
        fields.extend(metrics.iter().map(|metric| field(&metric.name().replace('.', "_"), Field::Number)));
        Self::new(out, fields, metrics)
    }

    /// A row a step and series.
    pub(in crate::history) fn of_series(out: W) -> Result<Self, Error> {
        let texts = [
            "path",
            "pod_namespace",
            "pod_name",
            "pod_uid",
            "container_name",
            "container_id",
            "systemd_unit",
            "systemd_slice",
            "metric",
            "aggregation",
            "unit",
        ];
        let mut fields = vec![
            field("from", Field::Moment),
            field("host_id", Field::Text),
            field("hostname", Field::Text),
            field("cgroup_id", Field::Number),
        ];
        fields.extend(texts.map(|name| field(name, Field::Text)));
        fields.extend([field("value", Field::Float), field("reset", Field::Flag), field("gap", Field::Flag)]);
        Self::new(out, fields, Vec::new())
    }

    fn new(
        out: W,
        fields: Vec<(Column, Result<Type, ParquetError>)>,
        metrics: Vec<Metric>,
    ) -> Result<Self, Error> {
        let (mut columns, mut types) = (Vec::new(), Vec::new());
        for (column, field) in fields {
            columns.push(column);
            types.push(Arc::new(field.map_err(failed)?));
        }
        let schema = Type::group_type_builder("cgfleet").with_fields(types).build().map_err(failed)?;
        let properties = WriterProperties::builder().set_compression(Compression::SNAPPY).build();
        let writer =
            SerializedFileWriter::new(out, Arc::new(schema), Arc::new(properties)).map_err(failed)?;
        let group_rows = (GROUP_VALUES_MAX / columns.len()).min(GROUP_ROWS_MAX);
        let (series, rows_held, rows, gaps) = (None, 0, 0, 0);
        Ok(Self { writer: Some(writer), columns, metrics, series, rows_held, group_rows, rows, gaps })
    }

    fn point(&mut self, host_id: &str, hostname: &str, point: &HistoryPoint) -> Result<(), Error> {
        let sample = point.sample.as_ref();
        let mut row = Row::new(&mut self.columns);
        row.moment(point.tick_at.as_ref());
        row.text(host_id);
        row.text(hostname);
        row.number(sample.map(|sample| sample.cgroup_id));
        row.text(sample.map_or("", |sample| &sample.path));
        for metric in &self.metrics {
            row.number(sample.and_then(|sample| sample.metric(*metric)));
        }
        self.end_row()
    }

    fn value(&mut self, value: &HistoryValue) -> Result<(), Error> {
        let Some(series) = &self.series else { return Ok(()) };
        let names = series.workload.clone().unwrap_or_default();
        let mut row = Row::new(&mut self.columns);
        row.moment(value.from.as_ref());
        row.text(&series.host_id);
        row.text(&series.hostname);
        row.number(Some(series.cgroup_id).filter(|id| *id != 0));
        row.text(&series.path);
        let aggregation = word(series.aggregation);
        for text in [
            &names.pod_namespace,
            &names.pod_name,
            &names.pod_uid,
            &names.container_name,
            &names.container_id,
            &names.systemd_unit,
            &names.systemd_slice,
            &series.metric,
            &aggregation,
            &series.unit,
        ] {
            row.text(text);
        }
        row.float(value.value);
        row.flag(value.reset);
        row.flag(value.gap);
        self.end_row()
    }

    fn end_row(&mut self) -> Result<(), Error> {
        self.rows += 1;
        self.rows_held += 1;
        if self.rows_held < self.group_rows { Ok(()) } else { self.write_group() }
    }

    fn write_group(&mut self) -> Result<(), Error> {
        let Some(writer) = &mut self.writer else { return Ok(()) };
        if std::mem::take(&mut self.rows_held) == 0 {
            return Ok(());
        }
        let mut group = writer.next_row_group().map_err(failed)?;
        for column in &mut self.columns {
            let Some(mut out) = group.next_column().map_err(failed)? else { break };
            let written = match column {
                Column::Moments(cells) | Column::Numbers(cells) => {
                    let (values, are_there) = cells.take();
                    out.typed::<Int64Type>().write_batch(&values, Some(&are_there), None)
                }
                Column::Floats(cells) => {
                    let (values, are_there) = cells.take();
                    out.typed::<DoubleType>().write_batch(&values, Some(&are_there), None)
                }
                Column::Texts(cells) => {
                    let (values, are_there) = cells.take();
                    out.typed::<ByteArrayType>().write_batch(&values, Some(&are_there), None)
                }
                Column::Flags(cells) => {
                    let (values, are_there) = cells.take();
                    out.typed::<BoolType>().write_batch(&values, Some(&are_there), None)
                }
            };
            written.map_err(failed)?;
            out.close().map_err(failed)?;
        }
        group.close().map_err(failed)?;
        Ok(())
    }
}

impl<W: Write + Send> Taker for Export<W> {
    fn take(&mut self, event: Event) -> Result<(), Error> {
        match event {
            Event::Points(points) => {
                for point in &points.points {
                    self.point(&points.host_id, &points.hostname, point)?;
                }
            }
            Event::Series(series) => self.series = Some(series),
            Event::Values(values) => {
                for value in &values.values {
                    self.value(value)?;
                }
            }
            Event::Gap(_) => self.gaps += 1,
            Event::Summary(_) => {}
        }
        Ok(())
    }

    fn finish(&mut self) -> Result<(), Error> {
        self.write_group()?;
        let Some(writer) = self.writer.take() else { return Ok(()) };
        writer.into_inner().map_err(failed)?.flush()?;
        Ok(())
    }

    fn counts(&self) -> String {
        format!("rows {}, gaps {}", self.rows, self.gaps)
    }

    fn is_empty(&self) -> bool {
        self.rows + self.gaps == 0
    }
}

/// Cells of a row, from the first column on.
struct Row<'a> {
    columns: std::slice::IterMut<'a, Column>,
}

impl<'a> Row<'a> {
    fn new(columns: &'a mut [Column]) -> Self {
        Self { columns: columns.iter_mut() }
    }

    fn moment(&mut self, moment: Option<&prost_types::Timestamp>) {
        if let Some(Column::Moments(cells)) = self.columns.next() {
            cells.push(moment.map(|at| at.seconds * 1_000_000 + i64::from(at.nanos) / 1_000));
        }
    }

    fn number(&mut self, number: Option<u64>) {
        if let Some(Column::Numbers(cells)) = self.columns.next() {
            cells.push(number.map(u64::cast_signed));
        }
    }

    fn float(&mut self, value: f64) {
        if let Some(Column::Floats(cells)) = self.columns.next() {
            cells.push(Some(value));
        }
    }

    fn text(&mut self, text: &str) {
        if let Some(Column::Texts(cells)) = self.columns.next() {
            cells.push(Some(text).filter(|text| !text.is_empty()).map(ByteArray::from));
        }
    }

    fn flag(&mut self, flag: bool) {
        if let Some(Column::Flags(cells)) = self.columns.next() {
            cells.push(Some(flag));
        }
    }
}

#[derive(Clone, Copy)]
enum Field {
    Moment,
    Number,
    Float,
    Text,
    Flag,
}

fn field(name: &str, field: Field) -> (Column, Result<Type, ParquetError>) {
    let (column, physical, logical) = match field {
        Field::Moment => (
            Column::Moments(Cells::default()),
            Physical::INT64,
            Some(LogicalType::timestamp(true, TimeUnit::MICROS)),
        ),
        Field::Number => {
            (Column::Numbers(Cells::default()), Physical::INT64, Some(LogicalType::integer(64, false)))
        }
        Field::Float => (Column::Floats(Cells::default()), Physical::DOUBLE, None),
        Field::Text => (Column::Texts(Cells::default()), Physical::BYTE_ARRAY, Some(LogicalType::String)),
        Field::Flag => (Column::Flags(Cells::default()), Physical::BOOLEAN, None),
    };
    let builder = Type::primitive_type_builder(name, physical)
        .with_repetition(Repetition::OPTIONAL)
        .with_logical_type(logical);
    (column, builder.build())
}

fn failed(error: ParquetError) -> Error {
    Error::Output(io::Error::other(error))
}
