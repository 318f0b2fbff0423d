//! Ticks under the fuzzer: keyframes, and deltas behind a tick.

use std::sync::LazyLock;

use cgfleet_model::{Metric, MetricSet};
use fastrand::Rng;

use super::{
    super::{
        CgroupKey, CodecError, HeadDecoder, KIND_DELTA, KIND_KEYFRAME, MetricValues, TickValues,
        encoder::put_delta_between,
        frame::{Form, HEAD},
        put_changed,
    },
    Target,
};

/// How many values a tick may have more than the base for a byte of its body. A metric that is 0 in a new
/// cgroup is a bit.
const VALUES_PER_BODY_BYTE_MAX: usize = 8;

/// The tick that every delta is read behind.
static BASE: LazyLock<(Vec<u8>, TickValues)> = LazyLock::new(|| {
    let values = any_tick(&TickValues::default(), &mut Rng::with_seed(7));
    (HEAD.seal(&keyframe_of(&values)).expect("a short body").0, values)
});

pub(super) struct Head;

impl Target for Head {
    const FORM: Form = HEAD;

    fn seeds(rng: &mut Rng) -> Vec<Vec<u8>> {
        let mut seeds = vec![vec![], keyframe_of(&TickValues::default())];
        for _ in 0..100 {
            let next = any_tick(&BASE.1, rng);
            seeds.push(keyframe_of(&next));
            seeds.push(delta_of(&BASE.0, &BASE.1, &next));
        }
        seeds
    }

    fn fit(body: &mut [u8], rng: &mut Rng) {
        if let [KIND_DELTA, rest @ ..] = body
            && let Some(follows) = rest.first_chunk_mut::<4>()
            && rng.u8(..32) > 0
        {
            follows.copy_from_slice(&BASE.0[1..5]);
        }
    }

    fn read(payload: &[u8], _: &mut Rng) -> Result<String, CodecError> {
        let mut decoder = HeadDecoder::default();
        decoder.apply(&BASE.0).expect("the base is a keyframe");
        let values = decoder.apply(payload)?.clone();
        let body = HEAD.open(payload).expect("just read").0;
        let [held, of_base] = [&values, &BASE.1].map(values_of);
        assert!(
            held <= of_base + body.len() * VALUES_PER_BODY_BYTE_MAX,
            "{held} values of {} bytes",
            body.len()
        );
        assert!(values.entries.is_sorted_by(|(before, _), (after, _)| before < after), "keys ascend");

        let sealed = |body: &[u8]| HEAD.seal(body).expect("no longer than what was read").0;
        let keyframe = sealed(&keyframe_of(&values));
        let mut decoder = HeadDecoder::default();
        assert_eq!(decoder.apply(&keyframe).expect("just encoded"), &values);
        let back = sealed(&delta_of(&keyframe, &values, &BASE.1));
        assert_eq!(decoder.apply(&back).expect("just encoded"), &BASE.1);

        Ok(format!("{:?} {} {}", body.first(), values.len(), held.checked_ilog2().map_or(0, |log| log + 1)))
    }
}

fn values_of(tick: &TickValues) -> usize {
    tick.entries.iter().map(|(_, values)| values.values.len()).sum()
}

fn keyframe_of(values: &TickValues) -> Vec<u8> {
    let mut body = vec![KIND_KEYFRAME];
    put_changed(&mut body, values.entries.iter().map(|(key, values)| (*key, None, values)));
    body
}

fn delta_of(base_payload: &[u8], base: &TickValues, next: &TickValues) -> Vec<u8> {
    let mut body = vec![KIND_DELTA];
    body.extend(&base_payload[1..5]);
    put_delta_between(&mut body, base, next);
    body
}

/// A tick in which some cgroups of `base` changed, some are gone and some are new.
fn any_tick(base: &TickValues, rng: &mut Rng) -> TickValues {
    let mut entries = base.entries.clone();
    entries.retain(|_| rng.u8(..8) > 0);
    for value in entries.iter_mut().flat_map(|(_, values)| &mut values.values) {
        if rng.u8(..4) == 0 {
            *value = value.wrapping_add(rng.u64(..500));
        }
    }
    for _ in 0..rng.usize(..12) {
        let key = CgroupKey { hierarchy_id: rng.u32(..3), cgroup_id: rng.u64(..) >> rng.u32(..64) };
        let present: MetricSet =
            (0..rng.usize(..9)).map(|_| *rng.choice(Metric::ALL).expect("some")).collect();
        let values = (0..present.len()).map(|_| rng.u64(..) >> rng.u32(..64)).collect();
        entries.push((key, MetricValues { present, values }));
    }
    entries.sort_by_key(|(key, _)| *key);
    entries.dedup_by_key(|(key, _)| *key);
    TickValues { entries }
}
