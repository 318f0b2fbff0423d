//! How long to wait before a host is asked again.

use std::time::Duration;

use tokio::time::sleep;

use super::Host;

/// The pause before the first new attempt; each further one doubles it.
const FIRST: Duration = Duration::from_millis(200);
const MAX: Duration = Duration::from_secs(30);

/// The pauses between attempts, each longer than the one before.
#[derive(Debug)]
pub(crate) struct Backoff {
    next: Duration,
}

impl Backoff {
    pub(crate) fn new() -> Self {
        Self { next: FIRST }
    }

    /// Waits, and lets a heartbeat end it: of a host that could not be reached.
    pub(crate) async fn pause_or_heartbeat(&mut self, host: &Host) {
        let pause = self.next_pause();
        tokio::select! {
            () = sleep(pause) => {}
            // Not at once: a host that answers heartbeats and nothing else would be dialled without end.
            () = async { tokio::join!(host.next_heartbeat(), sleep(FIRST)); } => {}
        }
    }

    /// Waits, whatever is heard of the host: it refused.
    pub(crate) async fn pause(&mut self) {
        sleep(self.next_pause()).await;
    }

    /// Spread, so that many who lost a host do not all come back at once.
    fn next_pause(&mut self) -> Duration {
        let pause = self.next.mul_f64(0.75 + fastrand::f64() / 2.0);
        self.next = (self.next * 2).min(MAX);
        pause
    }
}
