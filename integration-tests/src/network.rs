//! Hosts on this machine: network namespaces on a bridge of our own.

use std::{net::Ipv4Addr, process::Command};

use anyhow::{Context as _, Result, ensure};

/// A bridge and namespaces on it, removed on drop.
#[derive(Debug)]
pub struct Network {
    bridge: String,
    subnet: u8,
    namespaces: Vec<String>,
}

impl Network {
    /// Makes a bridge with the address 10.213.N.1/24, for an N that is free.
    pub fn new() -> Result<Self> {
        let subnet = fastrand::u8(1..=250);
        let network =
            Self { bridge: format!("cgf{}", std::process::id() % 1_000_000), subnet, namespaces: Vec::new() };
        ip(&["link", "add", &network.bridge, "type", "bridge"])?;
        ip(&["addr", "add", &format!("{}/24", network.address(1)), "dev", &network.bridge])?;
        ip(&["link", "set", &network.bridge, "up"])?;
        Ok(network)
    }

    /// The address of host number `n`; this process is number 1.
    pub fn address(&self, n: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, 213, self.subnet, n)
    }

    /// Makes a host with its own network: namespace name and address.
    pub fn host(&mut self) -> Result<(String, Ipv4Addr)> {
        let number = u8::try_from(self.namespaces.len() + 2)?;
        let namespace = format!("{}n{number}", self.bridge);
        let (inner, outer) = (format!("{namespace}i"), outer_end(&namespace));
        ip(&["netns", "add", &namespace])?;
        self.namespaces.push(namespace.clone());
        ip(&["link", "add", &outer, "type", "veth", "peer", "name", &inner, "netns", &namespace])?;
        ip(&["link", "set", &outer, "master", &self.bridge, "up"])?;
        let address = self.address(number);
        ip(&["-n", &namespace, "addr", "add", &format!("{address}/24"), "dev", &inner])?;
        ip(&["-n", &namespace, "link", "set", &inner, "up"])?;
        ip(&["-n", &namespace, "link", "set", "lo", "up"])?;
        Ok((namespace, address))
    }

    /// Pulls a host's cable, or plugs it in again.
    pub fn connect(&self, namespace: &str, is_connected: bool) -> Result<()> {
        ip(&["link", "set", &outer_end(namespace), if is_connected { "up" } else { "down" }])
    }
}

/// The end of a host's cable that is on the bridge.
fn outer_end(namespace: &str) -> String {
    format!("{namespace}o")
}

impl Drop for Network {
    fn drop(&mut self) {
        for namespace in &self.namespaces {
            let _ = ip(&["netns", "del", namespace]);
        }
        let _ = ip(&["link", "del", &self.bridge]);
    }
}

fn ip(arguments: &[&str]) -> Result<()> {
    let output = Command::new("ip").args(arguments).output().context("run ip (package iproute2)")?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "ip {}: {}", arguments.join(" "), stderr.trim());
    Ok(())
}
