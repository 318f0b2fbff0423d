//! Guests as members of a fleet: agents that register with a server on this machine's loopback.

use std::{net::Ipv4Addr, path::Path, thread};

use anyhow::{Context as _, Result, bail};

use super::{
    Programs,
    initramfs::{self, Job},
    kernels::Kernel,
    machine,
    qemu::{self, AGENT_PORT, OUTER_HOST},
    tail,
};

/// Ends a guest that somebody left behind.
const SECONDS_MAX: u32 = 24 * 60 * 60;

/// Runs an agent in every kernel until Ctrl-C, which reaches the guests too.
pub(super) fn join(kernels: &[Kernel], directory: &Path, programs: &Programs, server: &str) -> Result<()> {
    let server_port = loopback_port(server).context("--join takes http://127.0.0.1:PORT")?;
    let common = &initramfs::common(Job::Agent, programs)?;
    thread::scope(|scope| {
        for kernel in kernels {
            scope.spawn(move || match join_one(kernel, directory, common, server_port) {
                Ok(log) => eprintln!("{} ended:\n{log}", kernel.release),
                Err(error) => eprintln!("{}: {error:#}", kernel.release),
            });
        }
    });
    bail!("every guest has ended")
}

/// Waits until the guest ends; then what it said last.
fn join_one(kernel: &Kernel, directory: &Path, common: &[u8], server_port: u16) -> Result<String> {
    let port = qemu::free_port()?;
    let flags = [
        format!("--listen-address=0.0.0.0:{AGENT_PORT}"),
        "--insecure=true".to_owned(),
        "--state-dir=/run/cgfleet-agent".to_owned(),
        format!("--server-url=http://{OUTER_HOST}:{server_port}"),
        format!("--advertise-address={}:{port}", Ipv4Addr::LOCALHOST),
    ];
    let machine = machine(kernel, directory, SECONDS_MAX, Some(port));
    println!(
        "{}: will join as {}, its agent at {}:{port}, its log in {}",
        kernel.release,
        initramfs::hostname(kernel),
        Ipv4Addr::LOCALHOST,
        machine.output().display()
    );
    let ended = machine.run(&[common, &initramfs::own(kernel, &flags)?])?;
    Ok(tail(&ended.output))
}

fn loopback_port(url: &str) -> Option<u16> {
    let address = url.strip_prefix("http://").unwrap_or(url).trim_end_matches('/');
    let (host, port) = address.split_once(':')?;
    if ["127.0.0.1", "localhost"].contains(&host) { port.parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_joins_a_fleet_of_this_machine_only() {
        let check = |url: &str, expect: Option<u16>| assert_eq!(loopback_port(url), expect, "{url}");
        check("http://127.0.0.1:7400", Some(7400));
        check("localhost:7400/", Some(7400));
        check("http://10.0.0.1:7400", None);
        check("http://127.0.0.1", None);
    }
}
