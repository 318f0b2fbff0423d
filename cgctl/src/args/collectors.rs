//! Which collectors are switched which way.

use cgfleet_model::Collector;
use cgfleet_proto::v1::CollectorState;
use clap::Args;

use super::{FormatArgs, HostArgs, HostTimeoutArgs};

#[derive(Debug, Args)]
pub(crate) struct CollectorsArgs {
    #[command(flatten)]
    pub(crate) hosts: HostArgs,
    #[command(flatten)]
    pub(crate) switches: SwitchArgs,
    #[command(flatten)]
    pub(crate) host_timeout: HostTimeoutArgs,
    #[command(flatten)]
    pub(crate) output: FormatArgs,
}

#[derive(Debug, Args)]
pub(crate) struct SwitchArgs {
    /// Switch this collector on; may be repeated
    #[arg(long, value_name = "NAME", value_parser = Collector::from_name)]
    enable: Vec<Collector>,
    /// Switch this collector off; may be repeated
    #[arg(long, value_name = "NAME", value_parser = Collector::from_name)]
    disable: Vec<Collector>,
}

/// A collector and what it is to become.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Switch {
    pub(crate) collector: Collector,
    pub(crate) state: CollectorState,
}

/// A collector that is to become both.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("--enable {0} and --disable {0}: leave out one of them")]
pub(crate) struct BothWays(Collector);

impl SwitchArgs {
    /// Each collector once: those to be switched on, then those to be switched off.
    pub(crate) fn to_switches(&self) -> Result<Vec<Switch>, BothWays> {
        let on = self.enable.iter().map(|collector| (*collector, CollectorState::On));
        let off = self.disable.iter().map(|collector| (*collector, CollectorState::Off));
        let mut switches: Vec<Switch> = Vec::new();
        for (collector, state) in on.chain(off) {
            match switches.iter().find(|switch| switch.collector == collector) {
                Some(before) if before.state != state => return Err(BothWays(collector)),
                Some(_) => {}
                None => switches.push(Switch { collector, state }),
            }
        }
        Ok(switches)
    }
}

#[cfg(test)]
mod tests {
    use super::{Collector::*, *};

    #[test]
    fn each_collector_is_switched_once_and_one_way() {
        let check = |enable: &[Collector], disable: &[Collector], expect: Result<&[_], Collector>| {
            let args = SwitchArgs { enable: enable.to_vec(), disable: disable.to_vec() };
            let switches = args.to_switches().map(|switches| {
                switches.iter().map(|switch| (switch.collector, switch.state)).collect::<Vec<_>>()
            });
            assert_eq!(switches, expect.map(<[_]>::to_vec).map_err(BothWays), "{args:?}");
        };
        let (on, off) = (CollectorState::On, CollectorState::Off);
        check(&[], &[], Ok(&[]));
        check(&[Runqueue, Reclaim], &[BlockIo], Ok(&[(Runqueue, on), (Reclaim, on), (BlockIo, off)]));
        check(&[Runqueue, Runqueue], &[Attach, Attach], Ok(&[(Runqueue, on), (Attach, off)]));
        check(&[Reclaim, Runqueue], &[Attach, Runqueue], Err(Runqueue));
    }
}
