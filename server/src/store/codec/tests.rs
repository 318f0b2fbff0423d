//! Payloads read back as what was written, or as an error that names the damage.

use cgfleet_model::{Collector, Metric};
use cgfleet_proto::v1::{CgroupSample, CpuSample, Source};
use proptest::{collection, prelude::*, sample::Index};

use super::*;

fn sample(cgroup_id: u64, usage_usec: Option<u64>) -> CgroupSample {
    let cpu = usage_usec.map(|usage| CpuSample { usage_usec: Some(usage), ..CpuSample::default() });
    CgroupSample { cgroup_id, cpu, ..CgroupSample::default() }
}

/// Encodes ticks as one stream would, with the frames asked for.
pub(super) fn encode(ticks: &[(Frame, Vec<CgroupSample>)]) -> Vec<Vec<u8>> {
    let mut encoder = HeadEncoder::default();
    ticks.iter().map(|(frame, samples)| encoder.encode(samples, *frame).unwrap().payload).collect()
}

/// A payload with a valid envelope around any body.
fn sealed(body: &[u8]) -> Vec<u8> {
    frame::seal(body).unwrap().0
}

/// What servers store, for people.
pub(super) const STORAGE_PAGE: &str = include_str!("../../../../docs/storage.md");

/// The bytes of an example there: the block behind the line that begins so. Two spaces end a line's bytes.
pub(super) fn shown(opening: &str) -> Vec<u8> {
    let (_, behind) = STORAGE_PAGE.split_once(opening).expect("the page has the example");
    let lines = behind.lines().skip(2).take_while(|line| !line.is_empty());
    lines.flat_map(|line| bytes(line.trim_start().split("  ").next().unwrap_or_default())).collect()
}

pub(super) fn bytes(hex: &str) -> Vec<u8> {
    let digits: Vec<u8> = hex.bytes().filter(u8::is_ascii_hexdigit).collect();
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
    digits.chunks(2).map(byte).collect()
}

/// The ticks that docs/storage.md shows.
fn example() -> [CgroupSample; 2] {
    [1_000, 1_250].map(|usage| {
        let mut sample = sample(4242, Some(usage));
        sample.set_metric(Metric::MemoryCurrent, Some(8_192));
        sample
    })
}

#[test]
fn the_page_shows_ticks_as_they_are_written() {
    let written = encode(&example().map(|sample| (Frame::Delta, vec![sample])));
    for ((stored, written), opening) in
        STORED.iter().zip(written).zip(["A keyframe of a cgroup", "The delta behind it"])
    {
        let [stored, mut written] = [bytes(stored), written].map(|payload| frame::open(&payload).unwrap().0);
        assert_eq!(format!("{stored:02x?}"), format!("{:02x?}", shown(opening)), "{opening}");
        if written[0] == KIND_DELTA {
            // Another zstd may compress the keyframe to other bytes.
            written[1..5].copy_from_slice(&stored[1..5]);
        }
        assert_eq!(written, stored);
    }
}

#[test]
fn what_servers_have_stored_is_read_as_it_was() {
    let mut decoder = HeadDecoder::default();
    for (payload, sample) in STORED.iter().zip(example()) {
        assert_eq!(decoder.apply(&bytes(payload)).unwrap(), &TickValues::of(&[sample]));
    }
}

/// A keyframe and a delta as version 2 was first written; those of version 1 are in metrics.rs.
const STORED: [&str; 2] = [
    "020fd0025228b52ffd20108100000001009221070101060101d00f808001",
    "023879576928b52ffd200e710000010fd0025200010092210201f403",
];

#[test]
fn a_delta_holds_what_changed_and_nothing_else() {
    let tick =
        |first: u64| (Frame::Delta, (1..=10_000).map(|id| sample(id, Some(first * id))).collect::<Vec<_>>());
    let mut changed = tick(1_000);
    changed.1[4_999] = sample(5_000, Some(7));
    let payloads = encode(&[tick(1_000), changed.clone(), changed]);
    let sizes: Vec<_> = payloads.iter().map(Vec::len).collect();
    assert!(sizes[0] > 10_000 && sizes[1] < 40 && sizes[2] < 30, "{sizes:?}");
}

#[test]
fn absent_stays_absent_and_zero_stays_zero() {
    let ticks = [Some(5), None, Some(0), Some(0), None, Some(u64::MAX), Some(3)];
    let payloads = encode(&ticks.map(|usage| (Frame::Delta, vec![sample(1, usage)])));
    let mut decoder = HeadDecoder::default();
    for (payload, usage) in payloads.iter().zip(ticks) {
        let tick = decoder.apply(payload).unwrap();
        let values = tick.get(CgroupKey { hierarchy_id: 0, cgroup_id: 1 }).unwrap();
        assert_eq!((values.get(Metric::CpuUsage), values.get(Metric::CpuUser)), (usage, None));
    }
}

#[test]
fn a_group_that_overflowed_is_stored_as_not_measured() {
    let mut overflowed = sample(1, Some(5));
    overflowed.set_overflowed(Collector::Reclaim, Source::Rstat);
    let mut decoder = HeadDecoder::default();
    let payloads = encode(&[(Frame::Keyframe, vec![overflowed])]);
    let values =
        decoder.apply(&payloads[0]).unwrap().get(CgroupKey { hierarchy_id: 0, cgroup_id: 1 }).unwrap();
    let mut read_back = CgroupSample { cgroup_id: 1, ..CgroupSample::default() };
    values.write_to(&mut read_back);
    assert_eq!(read_back, sample(1, Some(5)));
}

#[test]
fn an_encoder_says_which_cgroups_came_and_went() {
    let key = |cgroup_id| CgroupKey { hierarchy_id: 0, cgroup_id };
    let mut encoder = HeadEncoder::default();
    let first = encoder.encode(&[sample(2, Some(1)), sample(1, None)], Frame::Delta).unwrap();
    assert_eq!((first.frame, first.new, first.gone), (Frame::Keyframe, vec![key(1), key(2)], vec![]));
    let second = encoder.encode(&[sample(2, Some(1)), sample(3, None)], Frame::Keyframe).unwrap();
    assert_eq!((second.frame, second.new, second.gone), (Frame::Keyframe, vec![key(3)], vec![key(1)]));
    // A removal of what was not there is none, nor is one of what is there.
    let removed = [key(3), key(2), key(9)];
    let third =
        encoder.encode_changes(&[sample(2, Some(7)), sample(4, None)], &removed, Frame::Delta).unwrap();
    assert_eq!((third.frame, third.new, third.gone), (Frame::Delta, vec![key(4)], vec![key(3)]));
    assert_eq!(encoder.tick(), Some(&TickValues::of(&[sample(2, Some(7)), sample(4, None)])));
    encoder.reset();
    let fresh = encoder.encode(&[sample(4, None)], Frame::Delta).unwrap();
    assert_eq!((fresh.frame, fresh.new, fresh.gone), (Frame::Keyframe, vec![key(4)], vec![]));
}

#[test]
fn each_kind_of_damage_has_its_error() {
    let payloads = encode(&[
        (Frame::Delta, vec![sample(1, Some(1))]),
        (Frame::Delta, vec![sample(1, Some(2))]),
        (Frame::Delta, vec![sample(1, Some(3))]),
    ]);
    let with = |at: usize, byte: u8| {
        let mut damaged = payloads[0].clone();
        damaged[at] = byte;
        damaged
    };
    let check = |payloads: &[&[u8]], expect: &str| {
        let mut decoder = HeadDecoder::default();
        let (last, before) = payloads.split_last().unwrap();
        for payload in before {
            decoder.apply(payload).unwrap();
        }
        let error = decoder.apply(last).unwrap_err().to_string();
        assert!(error.contains(expect), "{error:?} does not say {expect:?}");
        let error = decoder.apply(&encode(&[(Frame::Delta, vec![]), (Frame::Delta, vec![])])[1]).unwrap_err();
        assert!(
            matches!(error, CodecError::WrongBase { .. }),
            "after an error a keyframe is needed: {error}"
        );
    };
    check(&[&[]], "ends in the middle");
    check(&[&payloads[0][..3]], "ends in the middle");
    check(&[&with(0, 9)], "format version 9, this server reads up to 2");
    check(&[&with(1, payloads[0][1] ^ 1)], "is damaged: checksum");
    check(&[&with(0, 0x31)], "payload is a chunk, not a tick");
    check(&[&with(0, 0x70)], "payload is of unknown form, not a tick");
    check(&[&payloads[0][..payloads[0].len() - 1]], "is damaged: checksum");
    check(&[&[&payloads[0][..], b"tail"].concat()], "is damaged: checksum");
    check(&[&payloads[1]], "which is not the one read before it");
    check(&[&payloads[0], &payloads[2]], "which is not the one read before it");
    check(&[&sealed(&[])], "ends in the middle");
    check(&[&sealed(&[7])], "unknown kind 7");
    check(&[&sealed(&[KIND_KEYFRAME, 0, 1])], "1 bytes after its end");
    check(&[&sealed(&[KIND_KEYFRAME, 1, 0, 1, 0])], "does not say which metrics");
    check(&[&sealed(&[KIND_KEYFRAME, 1, 0, 1, 2 | 1, 1, 0, 0])], "a value of an absent metric");
    check(&[&sealed(&[KIND_KEYFRAME, 1, 0, 1, 1, 2, 0x80, 1])], "metric 7 of group 0,");
    check(&[&sealed(&[KIND_KEYFRAME, 1, 0, 1, 1, 0x80, 0x80, 1])], "group 13 of metrics,");
    check(&[&sealed(&[KIND_KEYFRAME, 2, 0, 1, 1, 0, 0, 0, 1, 0])], "keys that do not ascend");
    check(&[&sealed(&[&[KIND_KEYFRAME][..], &[0xff; 9], &[1]].concat())], "ends in the middle");
    let mut delta = vec![KIND_DELTA];
    delta.extend(&payloads[0][1..5]);
    delta.extend([1, 0, 9, 0]);
    check(&[&payloads[0], &sealed(&delta)], "the removal of a cgroup that was not there");
}

#[test]
fn a_body_above_the_bound_is_refused_both_ways() {
    let body = vec![0; frame::BODY_BYTES_MAX + 1];
    assert!(matches!(frame::seal(&body), Err(CodecError::TooLarge { .. })));
    let (bomb, _) = frame::HEAD.envelop(&zstd::bulk::compress(&body, 1).unwrap());
    assert!(matches!(frame::open(&bomb), Err(CodecError::Decompress(_))));
}

#[test]
fn every_flipped_bit_and_every_cut_is_an_error() {
    let tick =
        |first: u64| (Frame::Delta, (1..=60).map(|id| sample(id, Some(first * id))).collect::<Vec<_>>());
    for ticks in [vec![(Frame::Keyframe, vec![])], vec![tick(1_000)], vec![tick(7), tick(u64::MAX / 90)]] {
        let payloads = encode(&ticks);
        let (last, before) = payloads.split_last().unwrap();
        let check = |damaged: &[u8], what: &str, at: usize| {
            let mut decoder = HeadDecoder::default();
            for payload in before {
                decoder.apply(payload).unwrap();
            }
            assert!(decoder.apply(damaged).is_err(), "{what} {at} of {last:x?}");
        };
        for bit in 0..last.len() * 8 {
            let mut damaged = last.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            check(&damaged, "bit", bit);
        }
        for len in 0..last.len() {
            check(&last[..len], "cut at byte", len);
        }
    }
}

prop_compose! {
    fn any_sample()(
        hierarchy_id in 0_u32..3,
        // Few ids, so that cgroups come, go and come back; some far apart.
        cgroup_id in prop_oneof![1_u64..12, Just(u64::MAX), Just(1 << 40)],
        values in collection::vec((0..Metric::ALL.len(), prop_oneof![0_u64..300, any::<u64>()]), 0..8),
    ) -> CgroupSample {
        let mut sample = CgroupSample { hierarchy_id, cgroup_id, ..CgroupSample::default() };
        for (metric, value) in values {
            sample.set_metric(Metric::ALL[metric], Some(value));
        }
        sample
    }
}

pub(super) fn any_ticks() -> impl Strategy<Value = Vec<(Frame, Vec<CgroupSample>)>> {
    let frame = prop_oneof![1 => Just(Frame::Keyframe), 5 => Just(Frame::Delta)];
    collection::vec((frame, collection::vec(any_sample(), 0..20)), 1..12)
}

proptest! {
    #[test]
    fn any_ticks_read_back_as_they_were(ticks in any_ticks()) {
        let mut decoder = HeadDecoder::default();
        for (payload, (_, samples)) in encode(&ticks).iter().zip(&ticks) {
            prop_assert_eq!(decoder.apply(payload).unwrap(), &TickValues::of(samples));
        }
    }

    /// What is told of changes, with rows that did not change among them, makes the same payloads.
    #[test]
    fn changes_encode_as_whole_ticks_do(ticks in any_ticks(), unchanged: Vec<bool>) {
        let (mut of_ticks, mut of_changes) = (HeadEncoder::default(), HeadEncoder::default());
        let mut before: Vec<CgroupSample> = Vec::new();
        for (frame, samples) in ticks {
            let mut samples = samples;
            samples.sort_by_key(CgroupKey::of);
            samples.dedup_by_key(|sample| CgroupKey::of(sample));
            let mut told = unchanged.iter().chain(std::iter::repeat(&false));
            let changed: Vec<CgroupSample> = samples
                .iter()
                .filter(|sample| !before.contains(*sample) || told.next() == Some(&true))
                .cloned()
                .collect();
            let is_gone = |old: &&CgroupSample| !samples.iter().any(|new| CgroupKey::of(new) == CgroupKey::of(old));
            let removed: Vec<CgroupKey> = before.iter().filter(is_gone).map(CgroupKey::of).collect();
            let whole = of_ticks.encode(&samples, frame).unwrap();
            let told = of_changes.encode_changes(&changed, &removed, frame).unwrap();
            prop_assert_eq!(whole.payload, told.payload);
            prop_assert_eq!((whole.new, whole.gone, whole.cgroup_count), (told.new, told.gone, told.cgroup_count));
            before = samples;
        }
    }

    #[test]
    fn damage_is_an_error_until_the_next_keyframe(
        ticks in any_ticks(), which: Index, at: Index, flip in 1_u8.., cut: bool,
    ) {
        let mut payloads = encode(&ticks);
        let which = which.index(payloads.len());
        let damaged = &mut payloads[which];
        let at = at.index(damaged.len());
        if cut { damaged.truncate(at) } else { damaged[at] ^= flip }
        let mut decoder = HeadDecoder::default();
        let mut is_readable = true;
        for (nth, (payload, (frame, samples))) in payloads.iter().zip(&ticks).enumerate() {
            is_readable = nth != which && (is_readable || *frame == Frame::Keyframe);
            let decoded = decoder.apply(payload);
            prop_assert_eq!(decoded.is_ok(), is_readable, "payload {} of {}, {} damaged", nth, ticks.len(), which);
            if let Ok(values) = decoded {
                prop_assert_eq!(values, &TickValues::of(samples));
            }
        }
    }

    #[test]
    fn any_body_is_read_or_refused(base in any_ticks(), body: Vec<u8>) {
        let mut decoder = HeadDecoder::default();
        let payloads = encode(&base);
        for payload in &payloads {
            decoder.apply(payload).unwrap();
        }
        let follows = &payloads[payloads.len() - 1][1..5];
        let _ = decoder.apply(&sealed(&[&[KIND_DELTA], follows, &body].concat()));
        let _ = decoder.apply(&sealed(&[&[KIND_KEYFRAME], &body[..]].concat()));
    }
}
