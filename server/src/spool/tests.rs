//! The spool on a real disk: order, bounds, what survives, and what damage costs.

use std::{
    fs,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use cgfleet_proto::v1::{GapReason, Workload};
use proptest::prelude::*;
use uuid::Uuid;

use super::*;
use crate::store::{
    CgroupIdentity, Cursor, Fence, Gap, GoneCgroup,
    codec::{CgroupKey, Frame},
};

fn at(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000 + seconds)
}

/// A tick of a host, whose payload has this many bytes.
fn row(host: u128, sequence: u64, payload_bytes: usize) -> TickRow {
    let cursor = |next_seq| Cursor { epoch: Uuid::from_u128(7), next_seq, last_tick_at: at(next_seq - 1) };
    TickRow {
        host_id: Uuid::from_u128(host),
        fence: Fence::of_number(3),
        follows: (sequence > 0).then(|| cursor(sequence)),
        agent_epoch: Uuid::from_u128(7),
        sequence,
        boot_id: Uuid::from_u128(8),
        tick_at: at(sequence),
        sampled_at: at(sequence) - Duration::from_micros(1),
        frame: if sequence == 0 { Frame::Keyframe } else { Frame::Delta },
        cgroup_count: 2,
        payload: vec![u8::try_from(sequence % 251).unwrap(); payload_bytes],
        new_cgroups: vec![CgroupIdentity {
            boot_id: Uuid::from_u128(8),
            key: CgroupKey { hierarchy_id: 1, cgroup_id: sequence },
            parent_id: 1,
            level: 2,
            path: "/ä/\\x00".to_owned(),
        }],
        // A batch has no second one of a host, then.
        is_fresh: sequence != 9,
        names: vec![(
            CgroupKey { hierarchy_id: 1, cgroup_id: sequence },
            Workload { pod_name: "web".to_owned(), ..Workload::default() },
        )],
        gone: vec![GoneCgroup {
            key: CgroupKey { hierarchy_id: 1, cgroup_id: 9 },
            created_at: (sequence == 9).then(|| at(2)),
            last_tick_at: at(3),
        }],
        gap: (sequence == 5).then(|| Gap {
            after_at: at(1),
            before_at: at(5),
            reason: GapReason::NotReceived,
        }),
    }
}

fn limits(dir: &Path, bytes_max: u64) -> SpoolLimits {
    SpoolLimits { bytes_max, space: StateSpace::new(dir.to_owned(), 0) }
}

fn open(dir: &Path) -> (Arc<Spool>, Vec<Damage>) {
    let (spool, damage) = Spool::open(dir, limits(dir, 1 << 20)).unwrap();
    (Arc::new(spool), damage)
}

/// Drains all that is there: host and sequence of each tick, and what was damaged.
async fn drain(spool: &Arc<Spool>) -> (Vec<(u128, u64)>, Vec<Damage>) {
    let (mut ticks, mut damage) = (Vec::new(), Vec::new());
    while let Some(mut front) = spool.front().await.unwrap() {
        assert_eq!(front.batch.len(), front.ticks.len());
        ticks.extend(front.ticks.iter().map(|tick| (tick.host_id.as_u128(), tick.sequence)));
        damage.append(&mut front.damage);
        spool.drained(front).await.unwrap();
    }
    assert!(spool.is_empty() && spool.held().is_none());
    (ticks, damage)
}

fn segments(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let mut found: Vec<_> = entries.filter(|path| !path.ends_with("lock")).collect();
    found.sort();
    found
}

#[test]
fn a_row_comes_back_as_it_was() {
    for sequence in [0, 5, 9] {
        let (row, body) = (row(1, sequence, 30), record::encode(&row(1, sequence, 30)));
        assert_eq!(format!("{:?}", record::decode(&body).unwrap()), format!("{row:?}"));
    }
    assert!(record::decode(&record::encode(&row(1, 0, 3))[1..]).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    /// Whatever is cut, whenever the server starts anew: what was appended comes out once, in order.
    #[test]
    fn every_tick_comes_out_once_and_in_order(
        steps in proptest::collection::vec((0_usize..4, 0_u128..4, 1_usize..4), 1..40),
    ) {
        tokio::runtime::Runtime::new().unwrap().block_on(async {
            let dir = tempfile::tempdir().unwrap();
            let (mut spool, mut sequence, mut pending) = (open(dir.path()).0, 0, Vec::new());
            for (step, host, count) in steps {
                match step {
                    0 => {
                        drop(spool);
                        let (opened, damage) = open(dir.path());
                        assert_eq!(damage, []);
                        spool = opened;
                    }
                    1 => {
                        let Some(front) = spool.front().await.unwrap() else { continue };
                        let ticks = front.ticks.iter().map(|tick| (tick.host_id.as_u128(), tick.sequence));
                        assert_eq!(pending.drain(..front.ticks.len()).collect::<Vec<_>>(), ticks.collect::<Vec<_>>());
                        spool.drained(front).await.unwrap();
                    }
                    _ => {
                        let rows: Vec<_> = (0..count as u64).map(|n| row(host, sequence + n, 5_000)).collect();
                        sequence += count as u64;
                        spool.append(&rows).await.unwrap();
                        pending.extend(rows.iter().map(|row| (host, row.sequence)));
                    }
                }
                let of_host = pending.iter().filter(|(of, _)| *of == host).count() as u64;
                assert_eq!(spool.held_of(Uuid::from_u128(host)).map_or(0, |held| held.ticks), of_host);
                assert_eq!(spool.held().map_or(0, |held| held.ticks), pending.len() as u64);
            }
            assert_eq!(drain(&spool).await, (pending, vec![]));
            assert_eq!(segments(dir.path()), Vec::<PathBuf>::new());
        });
    }
}

#[tokio::test]
async fn a_full_spool_takes_nothing_until_something_is_drained() {
    let dir = tempfile::tempdir().unwrap();
    let spool = Arc::new(Spool::open(dir.path(), limits(dir.path(), 100_000)).unwrap().0);
    let mut taken = 0;
    let refused = loop {
        match spool.append(&[row(1, taken, 5_000)]).await {
            Ok(()) => taken += 1,
            Err(error) => break error,
        }
    };
    assert!(refused.to_string().contains("may have 100000 bytes (spool_bytes_max)"), "{refused}");
    assert!((15..20).contains(&taken) && spool.bytes() <= 100_000, "{taken} {}", spool.bytes());
    let on_disk: u64 = segments(dir.path()).iter().map(|path| fs::metadata(path).unwrap().len()).sum();
    assert_eq!(spool.bytes(), on_disk);
    // A batch has one tick of a host, and what is freed is a segment.
    for sequence in 0..6 {
        let front = spool.front().await.unwrap().unwrap();
        assert_eq!(front.ticks[0].sequence, sequence);
        spool.drained(front).await.unwrap();
    }
    spool.append(&[row(1, taken, 5_000)]).await.unwrap();
    assert_eq!(drain(&spool).await.0, (6..=taken).map(|sequence| (1, sequence)).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_full_file_system_is_named_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let space = StateSpace::new(dir.path().to_owned(), u64::MAX);
    let spool = Arc::new(Spool::open(dir.path(), SpoolLimits { bytes_max: 1 << 20, space }).unwrap().0);
    let refused = spool.append(&[row(1, 0, 10)]).await.unwrap_err().to_string();
    assert!(refused.contains("is full") && refused.contains("state_free_bytes_min"), "{refused}");
    assert_eq!(segments(dir.path()), Vec::<PathBuf>::new());
}

/// Three ticks of three hosts in a segment that is then changed; what is told of it at the start, and what
/// comes out.
async fn check(change: impl FnOnce(&fs::File, &[u64]), told: Option<&str>, expect: &[u128]) {
    let dir = tempfile::tempdir().unwrap();
    let (spool, _) = open(dir.path());
    let mut ends = vec![spool.bytes()];
    for host in 1..=3 {
        spool.append(&[row(host, 0, 100)]).await.unwrap();
        ends.push(spool.bytes());
    }
    drop(spool);
    ends[0] = segment::HEADER_BYTES;
    let path = segments(dir.path()).remove(0);
    change(&fs::File::options().write(true).open(&path).unwrap(), &ends);
    let (spool, damage) = open(dir.path());
    let damage: Vec<String> = damage.iter().map(ToString::to_string).collect();
    match told {
        Some(told) => {
            assert!(damage[0].contains(told) && damage[0].contains("segment-000000000001"), "{damage:?}");
        }
        None => assert!(damage.is_empty(), "{damage:?}"),
    }
    assert_eq!(spool.held().map_or(0, |held| held.ticks), expect.len() as u64);
    // It can be appended to.
    spool.append(&[row(9, 0, 100)]).await.unwrap();
    let drained: Vec<u128> = drain(&spool).await.0.into_iter().map(|(host, _)| host).collect();
    assert_eq!(drained, [expect, &[9]].concat());
    drop(spool);
    assert_eq!(open(dir.path()).1, []);
}

#[tokio::test]
async fn damage_is_named_and_costs_what_it_hit() {
    let flip = |file: &fs::File, at| file.write_all_at(b"\xff\xff\xff", at).unwrap();
    check(|_, _| {}, None, &[1, 2, 3]).await;
    check(|file, ends| flip(file, ends[1] + 40), Some("no record can be read"), &[1, 3]).await;
    // A length, so that the next record has to be looked for.
    check(|file, ends| flip(file, ends[0] + 4), Some("no record can be read"), &[2, 3]).await;
    // The last one was synced, so it is no torn tail.
    check(|file, ends| flip(file, ends[2] + 40), Some("no record can be read"), &[1, 2]).await;
    check(|file, _| flip(file, 3), Some("its header"), &[1, 2, 3]).await;
    // The marks: all is drained again.
    check(|file, _| flip(file, segment::MARKS_AT), None, &[1, 2, 3]).await;
    check(|file, ends| file.set_len(ends[2]).unwrap(), None, &[1, 2]).await;
}

#[tokio::test]
async fn a_torn_tail_is_cut_off() {
    let half = &record_bytes()[..50];
    check(|file, ends| file.write_all_at(half, ends[3]).unwrap(), None, &[1, 2, 3]).await;
    check(|file, ends| file.write_all_at(&[0; 5_000], ends[3]).unwrap(), None, &[1, 2, 3]).await;
    // A whole one that was not synced any more is a tick all the same.
    check(|file, ends| file.write_all_at(&record_bytes(), ends[3]).unwrap(), None, &[1, 2, 3, 4]).await;
}

fn record_bytes() -> Vec<u8> {
    let mut bytes = Vec::new();
    segment::put_record(&mut bytes, &record::encode(&row(4, 0, 100))).unwrap();
    bytes
}

#[tokio::test]
async fn what_only_a_newer_server_can_read_is_refused_and_so_is_a_second_server() {
    let dir = tempfile::tempdir().unwrap();
    let (spool, _) = open(dir.path());
    let in_use = Spool::open(dir.path(), limits(dir.path(), 1 << 20)).unwrap_err().to_string();
    assert!(in_use.contains("another cgfleet-server has the spool"), "{in_use}");
    spool.append(&[row(1, 0, 100)]).await.unwrap();
    drop(spool);
    let path = segments(dir.path()).remove(0);
    let mut bytes = fs::read(&path).unwrap();
    bytes[8] = 2;
    let checksum = crc32fast::hash(&bytes[..20]).to_le_bytes();
    bytes[20..24].copy_from_slice(&checksum);
    fs::write(&path, bytes).unwrap();
    let newer = Spool::open(dir.path(), limits(dir.path(), 1 << 20)).unwrap_err().to_string();
    assert!(newer.contains("of version 2: a newer cgfleet-server made it"), "{newer}");
}
