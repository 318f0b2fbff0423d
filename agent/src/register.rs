//! Tells the server that this host is here, again and again: the repeat is the heartbeat.

use std::time::Duration;

use cgfleet_proto::v1::{Host, RegisterHostRequest, fleet_service_client::FleetServiceClient};
use cgfleet_rpc::{channel::Channel, wire_error};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tonic::Request;

/// The first wait after a failure; it doubles up to the last known heartbeat interval.
const RETRY_FIRST: Duration = Duration::from_millis(200);
/// Until the server has told its interval.
const RETRY_MAX: Duration = Duration::from_secs(5);
/// How long one call may take.
const CALL_TIMEOUT: Duration = Duration::from_secs(5);

/// Registers until `shutdown`.
pub(crate) async fn keep_registered(channel: Channel, host: Host, shutdown: CancellationToken) {
    let mut server = FleetServiceClient::new(channel);
    let (mut interval, mut retry, mut registered) = (RETRY_MAX, RETRY_FIRST, false);
    loop {
        let mut request = Request::new(RegisterHostRequest { host: Some(host.clone()) });
        request.set_timeout(CALL_TIMEOUT);
        let answer = tokio::select! {
            answer = tokio::time::timeout(CALL_TIMEOUT, server.register_host(request)) => answer,
            () = shutdown.cancelled() => return,
        };
        let wait = match answer {
            Ok(Ok(response)) => {
                let told =
                    response.into_inner().heartbeat_interval.and_then(|told| Duration::try_from(told).ok());
                interval = told.filter(|told| !told.is_zero()).unwrap_or(interval);
                if !registered {
                    tracing::info!(heartbeat_interval = ?interval, "registered with the server");
                }
                (registered, retry) = (true, RETRY_FIRST);
                interval
            }
            failed => {
                if registered || retry == RETRY_FIRST {
                    let error = match failed {
                        Ok(Err(status)) => wire_error::describe(&status),
                        _ => format!("no answer within {CALL_TIMEOUT:?}"),
                    };
                    tracing::warn!(error, "the server cannot be told that this host is here; trying again");
                }
                registered = false;
                retry = (retry * 2).min(interval);
                retry
            }
        };
        tokio::select! {
            () = sleep(jittered(wait)) => {}
            () = shutdown.cancelled() => return,
        }
    }
}

/// 90 to 110 %, so that a fleet that started together does not call together.
fn jittered(wait: Duration) -> Duration {
    wait.mul_f64(0.9 + 0.2 * fastrand::f64())
}
