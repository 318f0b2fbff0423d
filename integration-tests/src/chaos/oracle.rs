//! What agents noted before they told anybody, against what a server stored.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fs,
    path::Path,
};

use anyhow::{Context as _, Result, bail, ensure};
use cgfleet_agent::tick_checksum;
use cgfleet_proto::v1::CgroupSample;
use cgfleet_server::store::codec::HeadDecoder;

use super::postgres::Postgres;

/// Agent epoch and sequence.
pub type TickName = (String, u64);

/// What an agent noted of a tick.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Noted {
    cgroups: usize,
    checksum: u32,
}

/// An agent's journal, in the order of its ticks.
#[derive(Debug, Default)]
pub struct Journal(Vec<(TickName, Noted)>);

impl Journal {
    /// Reads it. The line that is being written does not count.
    pub fn read(path: &Path) -> Result<Self> {
        let text = match fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(error) => return Err(error).with_context(|| path.display().to_string()),
        };
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        let line = |line: &str| {
            let [epoch, sequence, _, cgroups, checksum] = line.split(' ').collect::<Vec<_>>()[..] else {
                bail!("a line of the journal: {line:?}");
            };
            let noted = Noted { cgroups: cgroups.parse()?, checksum: u32::from_str_radix(checksum, 16)? };
            Ok(((epoch.to_owned(), sequence.parse()?), noted))
        };
        Ok(Self(whole.lines().map(line).collect::<Result<_>>()?))
    }

    /// The newest tick.
    pub fn last(&self) -> Option<&TickName> {
        self.0.last().map(|(name, _)| name)
    }

    /// The sequences of each process that took ticks, in order.
    fn epochs(&self) -> Vec<(&str, Vec<u64>)> {
        let mut epochs: Vec<(&str, Vec<u64>)> = Vec::new();
        for ((epoch, sequence), _) in &self.0 {
            match epochs.last_mut() {
                Some((last, sequences)) if last == epoch => sequences.push(*sequence),
                _ => epochs.push((epoch, vec![*sequence])),
            }
        }
        epochs
    }
}

/// What was found to be as it should.
#[derive(Debug, Default, Clone, Copy)]
pub struct Verified {
    /// Ticks that are stored once.
    pub ticks: usize,
    /// Those of them whose values were compared.
    pub compared: usize,
    /// Ticks that an agent took right before it was killed, and that are in no server.
    pub lost_with_agents: usize,
    /// Gaps that say that an agent began anew.
    pub gaps: usize,
}

/// Stored ticks of one host, in time order.
pub struct Stored(Vec<(TickName, Vec<u8>)>);

impl Stored {
    /// Reads the head of a host.
    pub fn read(postgres: &Postgres, host_id: &str) -> Result<Self> {
        let rows = postgres.sql(&format!(
            "select agent_epoch, sequence, encode(payload, 'hex') from head where host_id = '{host_id}' order by tick_at"
        ))?;
        let row = |line: &str| {
            let [epoch, sequence, payload] = line.split(' ').collect::<Vec<_>>()[..] else {
                bail!("a row of the head: {line:?}");
            };
            let byte = |at: usize| u8::from_str_radix(&payload[at..at + 2], 16);
            let payload = (0..payload.len()).step_by(2).map(byte).collect::<Result<_, _>>()?;
            Ok(((epoch.to_owned(), sequence.parse()?), payload))
        };
        Ok(Self(rows.lines().map(row).collect::<Result<_>>()?))
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Compares the ticks of one host. `journal` was read before `stored`, and is complete there; `later` behind it. So
/// often the agent was killed.
pub fn verify(journal: &Journal, stored: &Stored, later: &Journal, kills: usize) -> Result<Verified> {
    let mut verified = Verified { ticks: stored.len(), ..Verified::default() };
    let names: HashSet<&TickName> = stored.0.iter().map(|(name, _)| name).collect();
    ensure!(names.len() == stored.len(), "{} ticks are stored twice", stored.len() - names.len());
    let noted: HashMap<&TickName, Noted> = later.0.iter().map(|(name, noted)| (name, *noted)).collect();
    let epochs = journal.epochs();
    ensure!(epochs.len() == kills + 1, "{} processes took ticks, and {kills} were killed", epochs.len());
    let newest = epochs.last().map(|(epoch, _)| *epoch);
    for (epoch, sequences) in &epochs {
        let is_stored = |sequence: &&u64| names.contains(&((*epoch).to_owned(), **sequence));
        let missing: Vec<u64> = sequences.iter().filter(|sequence| !is_stored(sequence)).copied().collect();
        let is_newest = Some(*epoch) == newest;
        let lost_max = if is_newest { 0 } else { 2 };
        ensure!(
            missing.len() <= lost_max && sequences.ends_with(&missing),
            "agent process {epoch}, killed: {}: {} of {} ticks are missing: {missing:?}",
            !is_newest,
            missing.len(),
            sequences.len()
        );
        verified.lost_with_agents += missing.len();
    }
    let mut decoder = HeadDecoder::default();
    for (name, payload) in &stored.0 {
        let values = decoder.apply(payload).with_context(|| format!("{name:?}"))?;
        let noted = noted.get(name).with_context(|| format!("{name:?} was stored and never taken"))?;
        // A tick that tells of removals has the last values of those cgroups too, which the walk did not meet.
        ensure!(values.len() >= noted.cgroups, "{name:?}: {} of {noted:?}", values.len());
        if values.len() == noted.cgroups {
            let sample = |(key, values): (cgfleet_server::store::codec::CgroupKey, &_)| {
                let mut sample = CgroupSample {
                    hierarchy_id: key.hierarchy_id,
                    cgroup_id: key.cgroup_id,
                    ..CgroupSample::default()
                };
                let values: &cgfleet_server::store::codec::MetricValues = values;
                values.write_to(&mut sample);
                sample
            };
            let samples: Vec<CgroupSample> = values.iter().map(sample).collect();
            ensure!(tick_checksum(&samples) == noted.checksum, "{name:?} has other values than were taken");
            verified.compared += 1;
        }
    }
    Ok(verified)
}

/// The gaps of a host: there is one for every time that its agent was killed, and none because ticks were not received.
pub fn verify_gaps(postgres: &Postgres, host_id: &str, kills: usize) -> Result<usize> {
    let rows = postgres.sql(&format!(
        "select reason, count(*) from gap where host_id = '{host_id}' group by reason order by reason"
    ))?;
    let mut counts = BTreeMap::new();
    for line in rows.lines() {
        let (reason, count) = line.split_once(' ').context("a reason and a count")?;
        counts.insert(reason, count.parse::<usize>()?);
    }
    // Whether ticks that were not taken are none, the journal says.
    counts.remove("not_taken");
    let restarts = counts.remove("agent_restarted").unwrap_or_default();
    ensure!(restarts == kills && counts.is_empty(), "{kills} kills of the agent, and these gaps: {rows}");
    Ok(restarts)
}
