//! Rows in the format of `copy … (format binary)`: the cheapest way into Postgres.

use sqlx::PgConnection;
use uuid::Uuid;

/// Signature, flags, and the length of no extension.
const HEADER: &[u8] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";
const TRAILER: [u8; 2] = (-1_i16).to_be_bytes();

/// Postgres counts from 2000-01-01; in microseconds since the Unix epoch.
const POSTGRES_EPOCH_USEC: i64 = 946_684_800_000_000;

/// The type of array elements (pg_type.dat).
const REAL_OID: u32 = 700;

/// How much is sent at a time.
const MESSAGE_BYTES: usize = 1 << 20;

/// Rows that grow field by field.
pub(super) struct CopyRows {
    bytes: Vec<u8>,
    fields: i16,
    is_empty: bool,
}

impl CopyRows {
    pub(super) fn new(fields: i16) -> Self {
        Self { bytes: HEADER.to_vec(), fields, is_empty: true }
    }

    pub(super) fn begin_row(&mut self) {
        self.bytes.extend(self.fields.to_be_bytes());
        self.is_empty = false;
    }

    fn field(&mut self, bytes: &[u8]) {
        // No field is longer than a payload may be.
        let len = i32::try_from(bytes.len()).unwrap_or(i32::MAX);
        self.bytes.extend(len.to_be_bytes());
        self.bytes.extend_from_slice(bytes);
    }

    fn null(&mut self) {
        self.bytes.extend((-1_i32).to_be_bytes());
    }

    pub(super) fn uuid(&mut self, value: Uuid) {
        self.field(value.as_bytes());
    }

    pub(super) fn bytea(&mut self, value: &[u8]) {
        self.field(value);
    }

    pub(super) fn boolean(&mut self, value: bool) {
        self.field(&[u8::from(value)]);
    }

    pub(super) fn smallint(&mut self, value: i16) {
        self.field(&value.to_be_bytes());
    }

    pub(super) fn integer(&mut self, value: i32) {
        self.field(&value.to_be_bytes());
    }

    pub(super) fn bigint(&mut self, value: i64) {
        self.field(&value.to_be_bytes());
    }

    pub(super) fn bigint_or_null(&mut self, value: Option<i64>) {
        match value {
            Some(value) => self.bigint(value),
            None => self.null(),
        }
    }

    pub(super) fn real_or_null(&mut self, value: Option<f32>) {
        match value {
            Some(value) => self.field(&value.to_be_bytes()),
            None => self.null(),
        }
    }

    /// In microseconds since the Unix epoch.
    pub(super) fn timestamptz(&mut self, unix_usec: i64) {
        self.bigint(unix_usec - POSTGRES_EPOCH_USEC);
    }

    /// `real[]`: dimensions, whether there are nulls, type, length, lower bound, elements.
    pub(super) fn reals(&mut self, values: Option<&[Option<f32>]>) {
        let Some(values) = values else { return self.null() };
        let begin = self.bytes.len();
        self.bytes.extend([0; 4]);
        let len = u32::try_from(values.len()).unwrap_or(u32::MAX);
        let has_nulls = u32::from(values.contains(&None));
        for word in [u32::from(len > 0), has_nulls, REAL_OID] {
            self.bytes.extend(word.to_be_bytes());
        }
        if len > 0 {
            self.bytes.extend(len.to_be_bytes());
            self.bytes.extend(1_u32.to_be_bytes());
        }
        for value in values {
            self.real_or_null(*value);
        }
        let bytes = i32::try_from(self.bytes.len() - begin - 4).unwrap_or(i32::MAX);
        self.bytes[begin..begin + 4].copy_from_slice(&bytes.to_be_bytes());
    }

    /// Sends the rows; does nothing if there are none.
    pub(super) async fn send(
        mut self,
        connection: &mut PgConnection,
        statement: &str,
    ) -> Result<(), sqlx::Error> {
        if self.is_empty {
            return Ok(());
        }
        self.bytes.extend(TRAILER);
        let mut copy = connection.copy_in_raw(statement).await?;
        for message in self.bytes.chunks(MESSAGE_BYTES) {
            copy.send(message).await?;
        }
        copy.finish().await?;
        Ok(())
    }
}
