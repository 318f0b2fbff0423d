//! A process with a little work to do, so that an empty host has something to show.

use std::{
    os::unix::process::parent_id,
    thread,
    time::{Duration, Instant},
};

const BUSY: Duration = Duration::from_millis(10);
const IDLE: Duration = Duration::from_millis(90);

/// Uses about a tenth of a core until `parent` is gone.
pub(crate) fn burn(parent: u32) {
    while parent_id() == parent {
        let start = Instant::now();
        while start.elapsed() < BUSY {
            std::hint::spin_loop();
        }
        thread::sleep(IDLE);
    }
}
