//! Values of series out of ticks.

use uuid::Uuid;

use super::{
    super::{StoreError, codec::HeadScanner},
    micros::system_time,
    series::{Batch, Lane, ReadError, SeriesPage},
};
use crate::history::HostSeries;

/// One host's ticks, from a keyframe on.
#[derive(Debug)]
pub(super) struct HeadLane {
    host: HostSeries,
    scanner: HeadScanner,
    boot_id: Option<Uuid>,
    page: SeriesPage,
    /// Ticks before this moment are read for those behind them alone.
    from: i64,
}

impl HeadLane {
    pub(super) fn new(host: HostSeries, page: SeriesPage, from: i64) -> Self {
        let scanner = HeadScanner::new(page.metrics, host.keys());
        Self { host, scanner, boot_id: None, page, from }
    }

    pub(super) fn into_host(self) -> HostSeries {
        self.host
    }
}

impl Lane for HeadLane {
    fn read(&mut self, batch: &Batch) -> Result<(), ReadError> {
        for (at, boot_id, payload) in batch.iter() {
            if self.boot_id.replace(boot_id).is_some_and(|before| before != boot_id) {
                self.scanner = HeadScanner::new(self.page.metrics, self.host.keys());
            }
            let damaged = |source| StoreError::Payload {
                host_id: self.host.host_id(),
                tick_at: system_time(at),
                source,
            };
            let mut tick = self.scanner.apply(payload).map_err(damaged)?;
            if at >= self.from {
                self.host.tick(at, boot_id, &mut tick)?;
            }
        }
        Ok(())
    }
}
