//! Channels to an agent or the server.

use std::{net::IpAddr, time::Duration};

use tonic::{
    service::interceptor::InterceptedService,
    transport::{Endpoint, Uri},
};

use crate::trace::InjectTraceContext;

/// A channel that carries the caller's trace context.
pub type Channel = InterceptedService<tonic::transport::Channel, InjectTraceContext>;

/// How long a TCP connect may take; a host that is down answers sooner or not at all.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// An idle connection is pinged this often, so that a host that vanished is noticed.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
/// A ping that is not answered in this time ends the connection.
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(5);
/// HTTP/2 windows for fat streams: a snapshot of many cgroups should not wait for window updates.
const STREAM_WINDOW_BYTES: u32 = 4 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 16 << 20;
/// Of streams that may stand still: what each holds here then. Together they are bounded by nothing but their
/// number, for those that stand still would else use up what the others need.
const STANDING_STREAM_WINDOW_BYTES: u32 = 256 << 10;
const STANDING_CONNECTION_WINDOW_BYTES: u32 = (1 << 31) - 1;

/// A channel to `target` (`host:port` or `http://host:port`) that connects when first used and
/// reconnects by itself.
///
/// Mutual TLS goes in here and in [`crate::listen`], nowhere else.
pub fn connect_lazy(target: &str) -> Result<Channel, InvalidTarget> {
    lazy(target, STREAM_WINDOW_BYTES, CONNECTION_WINDOW_BYTES)
}

/// As [`connect_lazy`], for streams whose readers may stand still: one that does costs the others on the
/// channel nothing.
pub fn connect_lazy_for_standing_streams(target: &str) -> Result<Channel, InvalidTarget> {
    lazy(target, STANDING_STREAM_WINDOW_BYTES, STANDING_CONNECTION_WINDOW_BYTES)
}

fn lazy(target: &str, stream_bytes: u32, connection_bytes: u32) -> Result<Channel, InvalidTarget> {
    let endpoint = endpoint(target)?
        .connect_timeout(CONNECT_TIMEOUT)
        .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .initial_stream_window_size(stream_bytes)
        .initial_connection_window_size(connection_bytes)
        .tcp_nodelay(true);
    Ok(InterceptedService::new(endpoint.connect_lazy(), InjectTraceContext))
}

/// Whether [`connect_lazy`] would take `target`, said without a runtime: for configurations.
pub fn check_target(target: &str) -> Result<(), InvalidTarget> {
    endpoint(target).map(drop)
}

/// Whether `target` names this host by a loopback address or as `localhost`.
pub fn is_loopback(target: &str) -> bool {
    let host = endpoint(target).ok().and_then(|endpoint| endpoint.uri().host().map(str::to_owned));
    host.is_some_and(|host| {
        let address = host.trim_matches(['[', ']']).parse::<IpAddr>();
        host == "localhost" || address.is_ok_and(|address| address.is_loopback())
    })
}

fn endpoint(target: &str) -> Result<Endpoint, InvalidTarget> {
    let invalid = || InvalidTarget { target: target.to_owned() };
    let url = if target.contains("://") { target.to_owned() } else { format!("http://{target}") };
    let uri: Uri = url.parse().map_err(|_| invalid())?;
    let plain = uri.scheme_str() == Some("http") && matches!(uri.path(), "" | "/");
    if !plain || uri.host().is_none_or(str::is_empty) || uri.port_u16().is_none_or(|port| port == 0) {
        return Err(invalid());
    }
    Ok(Endpoint::from(uri))
}

/// An address that no channel can be made to.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{target:?} is not an address; allowed: host:port or http://host:port")]
pub struct InvalidTarget {
    /// The address as given.
    pub target: String,
}

#[cfg(test)]
mod tests {
    use super::endpoint;

    #[test]
    fn loopback_is_told_by_address_or_name() {
        for (target, expect) in [
            ("127.0.0.1:1", true),
            ("http://[::1]:1", true),
            ("localhost:1", true),
            ("10.0.0.1:1", false),
            ("a:1", false),
        ] {
            assert_eq!(super::is_loopback(target), expect, "{target}");
        }
    }

    #[test]
    fn an_address_has_a_host_and_a_port() {
        for good in ["127.0.0.1:7400", "http://[::1]:7400", "http://server.example:1/"] {
            assert!(endpoint(good).is_ok(), "{good}");
        }
        for bad in ["", "localhost", "https://a:1", "http://a:1/path", "http://:1", "a:0", "a:99999", "a b:1"]
        {
            assert!(endpoint(bad).is_err(), "{bad}");
        }
    }
}
