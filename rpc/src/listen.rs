//! Binding a listener, and the rule on who may reach it without TLS.

use std::{
    io,
    net::{SocketAddr, TcpListener},
};

/// Connections that may wait to be accepted: a fleet that finds its server again calls all at once.
const BACKLOG: i32 = 1024;

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
///
/// Needs no runtime: a port may take a privilege that is gone when the runtime starts.
pub fn bind(address: SocketAddr, exposure: Exposure) -> Result<TcpListener, ListenError> {
    if exposure == Exposure::LoopbackOnly && !address.ip().is_loopback() {
        return Err(ListenError::Exposed { address });
    }
    let listen = || -> io::Result<TcpListener> {
        let listener = TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        // The standard library's backlog is 128; listening again changes that alone (net/ipv4/af_inet.c, inet_listen).
        rustix::net::listen(&listener, BACKLOG)?;
        Ok(listener)
    };
    listen().map_err(|source| match source.kind() {
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

    #[test]
    fn other_hosts_reach_a_listener_only_when_told_so() {
        let any: SocketAddr = "0.0.0.0:0".parse().unwrap();
        let refused = bind(any, Exposure::LoopbackOnly).unwrap_err();
        assert!(refused.to_string().contains("--insecure"), "{refused}");
        bind(any, Exposure::AnywhereInsecure).unwrap();
    }

    #[test]
    fn a_taken_port_is_named() {
        let first = bind("127.0.0.1:0".parse().unwrap(), Exposure::LoopbackOnly).unwrap();
        let address = first.local_addr().unwrap();
        let refused = bind(address, Exposure::LoopbackOnly).unwrap_err();
        assert!(refused.to_string().contains(&format!("{address}: the port is taken")), "{refused}");
    }
}
