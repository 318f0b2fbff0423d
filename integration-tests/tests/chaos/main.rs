//! What survives when servers, Postgres, agents and links fail, and disks are full.

mod disk_full;

use anyhow::Result;
use integration_tests::chaos;

#[tokio::test(flavor = "multi_thread")]
async fn every_tick_that_was_taken_is_stored_once_whatever_fails() -> Result<()> {
    chaos::run(10, 3, fastrand::u64(..)).await
}
