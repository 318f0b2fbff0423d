//! Bad input: every row of the tables below is one mistake, what it is answered with, and how soon.
//!
//! Wherever it is made, the answer is one line that names what was given and what is allowed or missing.
//! `cargo test --test bad_input -- --nocapture` prints every one of them.

mod cgctl;
mod daemons;
mod grpc;
mod pasts;
mod specs;

use std::time::Duration;

use anyhow::{Context as _, Result};
use cgfleet_proto::v1::{HostState, ListHostsRequest};
use integration_tests::{daemon::Daemon, wait};

/// The longest that a refusal may take, on a busy machine too; most come at once.
const REFUSAL_TIME_MAX: Duration = Duration::from_secs(20);

/// Checks the line that a mistake is answered with, and shows it.
fn check_line(mistake: &str, line: &str, says: &[&str]) {
    println!("{mistake}\n    {line}");
    assert_eq!(line.lines().count(), 1, "{mistake}: not one line: {line}");
    assert!(!line.contains("panicked"), "{mistake}: {line}");
    for part in says {
        assert!(line.contains(part), "{mistake}: {line:?} does not say {part:?}");
    }
}

/// Waits for a refusal.
async fn in_time<T>(mistake: &str, refusal: impl Future<Output = T>) -> Result<T> {
    let refused = tokio::time::timeout(REFUSAL_TIME_MAX, refusal).await;
    refused.with_context(|| format!("{mistake}: no answer within {REFUSAL_TIME_MAX:?}"))
}

/// Waits until the server sees this host up, and gives its id.
async fn host_up(server: &Daemon, hostname: &str) -> Result<String> {
    wait::until(&format!("{hostname} up"), Duration::from_secs(20), async || {
        let hosts = server.fleet()?.list_hosts(ListHostsRequest::default()).await?.into_inner().hosts;
        let up = hosts.into_iter().filter(|status| status.state() == HostState::Up);
        let named = up.filter_map(|status| status.host).find(|host| host.hostname == hostname);
        Ok(named.map(|host| host.host_id))
    })
    .await
}
