//! When a process is asked to stop.

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// A token that is cancelled by SIGINT or SIGTERM. A second signal ends the process at once.
pub fn on_signal() -> std::io::Result<CancellationToken> {
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let token = CancellationToken::new();
    let stopping = token.clone();
    tokio::spawn(async move {
        for stopped_before in [false, true] {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            if stopped_before {
                std::process::exit(130);
            }
            stopping.cancel();
        }
    });
    Ok(token)
}

/// What Rust exits with when the main thread panics.
const PANIC_EXIT_CODE: i32 = 101;

/// Makes a panic in any thread end the process, after it was reported: a daemon without its walker or
/// its writer would look well and do nothing. What supervises it starts it again.
pub fn exit_on_panic() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        report(panic);
        std::process::exit(PANIC_EXIT_CODE);
    }));
}
