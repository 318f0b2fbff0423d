//! Binding a listener, and the rule on who may reach it without TLS.

use std::{io, net::SocketAddr};

use tokio::net::TcpListener;

/// Whether a listener without TLS may be reached from other hosts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exposure {
    /// Only from this host.
    LoopbackOnly,
    /// From anywhere, because the operator said `--insecure`.
    AnywhereInsecure,
}

impl Exposure {
    /// What the setting `insecure` of a daemon allows.
    pub fn of_insecure(insecure: bool) -> Self {
        if insecure { Self::AnywhereInsecure } else { Self::LoopbackOnly }
    }
}

/// Binds `address`; refuses one that other hosts can reach unless `exposure` allows it.
pub async fn bind(address: SocketAddr, exposure: Exposure) -> Result<TcpListener, ListenError> {
    if exposure == Exposure::LoopbackOnly && !address.ip().is_loopback() {
        return Err(ListenError::Exposed { address });
    }
    TcpListener::bind(address).await.map_err(|source| match source.kind() {
        io::ErrorKind::AddrInUse => ListenError::PortTaken { address },
        _ => ListenError::Bind { address, source },
    })
}

/// A listener that cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// Another process listens there.
    #[error(
        "listen_address {address}: the port is taken by another process; choose another port or stop that process"
    )]
    PortTaken {
        /// The address as configured.
        address: SocketAddr,
    },
    /// Reachable from other hosts without TLS.
    #[error(
        "listen_address {address} can be reached from other hosts; allowed: a loopback address, or --insecure to serve without TLS"
    )]
    Exposed {
        /// The address as configured.
        address: SocketAddr,
    },
    /// Anything else that the kernel refuses.
    #[error(
        "listen_address {address}: {source}; choose an address of this host, and a port that this user may take"
    )]
    Bind {
        /// The address as configured.
        address: SocketAddr,
        /// The kernel's answer.
        source: io::Error,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn other_hosts_reach_a_listener_only_when_told_so() {
        let any: SocketAddr = "0.0.0.0:0".parse().unwrap();
        let refused = bind(any, Exposure::LoopbackOnly).await.unwrap_err();
        assert!(refused.to_string().contains("--insecure"), "{refused}");
        bind(any, Exposure::AnywhereInsecure).await.unwrap();
    }

    #[tokio::test]
    async fn a_taken_port_is_named() {
        let first = bind("127.0.0.1:0".parse().unwrap(), Exposure::LoopbackOnly).await.unwrap();
        let address = first.local_addr().unwrap();
        let refused = bind(address, Exposure::LoopbackOnly).await.unwrap_err();
        assert!(refused.to_string().contains(&format!("{address}: the port is taken")), "{refused}");
    }
}
