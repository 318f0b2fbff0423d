//! Waiting for something to become true, bounded.

use std::time::Duration;

use anyhow::{Result, bail};
use tokio::time::{Instant, interval};

/// Asks again and again until `check` gives a value; fails after `patience`, saying what was awaited.
pub async fn until<T, F>(what: &str, patience: Duration, mut check: impl FnMut() -> F) -> Result<T>
where
    F: Future<Output = Result<Option<T>>>,
{
    let deadline = Instant::now() + patience;
    let mut pause = interval(Duration::from_millis(50));
    let mut last_error = None;
    while Instant::now() < deadline {
        pause.tick().await;
        match check().await {
            Ok(Some(value)) => return Ok(value),
            Ok(None) => last_error = None,
            Err(error) => last_error = Some(error),
        }
    }
    match last_error {
        Some(error) => Err(error.context(format!("{what} did not happen within {patience:?}"))),
        None => bail!("{what} did not happen within {patience:?}"),
    }
}
