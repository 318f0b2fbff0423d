//! A fuzzer of all that reads payloads. `cargo test` runs a part of it, `cargo xtask fuzz` as much as it is told.
//!
//! Bodies are mutated and sealed again, so that what is behind the checksum meets what no encoder wrote; mutated payloads
//! test the envelope. Nothing may panic, take long or hold much, and what is accepted must read back from its own encoding.

mod chunk;
mod corpus;
mod head;

use std::{
    collections::BTreeMap,
    env, fs,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    time::{Duration, Instant},
};

use fastrand::Rng;

use self::corpus::{Corpus, mutate};
use super::{CodecError, frame::Form};

/// What a run is told by: see [`Plan::of_environment`].
const EXECUTIONS_KEY: &str = "CGFLEET_FUZZ_EXECUTIONS";
const SEED_KEY: &str = "CGFLEET_FUZZ_SEED";

/// Executions of a run that is told nothing.
const EXECUTIONS: u64 = 50_000;

/// How long one execution may take, also where the machine does other things.
const EXECUTION_MAX: Duration = Duration::from_secs(10);

/// How much the process may grow: a payload's values as decoded, encoded and decoded again, and something.
const GROWTH_BYTES_MAX: u64 = 1 << 30;

/// Something that reads payloads.
trait Target {
    /// What its payloads are.
    const FORM: Form;

    /// Bodies that encoders write, of all shapes.
    fn seeds(rng: &mut Rng) -> Vec<Vec<u8>>;

    /// Makes a mutated body follow what it is read behind, if it should.
    fn fit(_body: &mut [u8], _rng: &mut Rng) {}

    /// Reads a payload; panics if what is accepted breaks a rule. Says what the result looks like, to tell results
    /// apart.
    fn read(payload: &[u8], rng: &mut Rng) -> Result<String, CodecError>;
}

#[test]
fn chunk() {
    run::<chunk::Chunk>("chunk");
}

#[test]
fn head() {
    run::<head::Head>("head");
}

struct Plan {
    executions: u64,
    seed: u64,
}

impl Plan {
    fn of_environment() -> Self {
        let number = |key: &str, default: u64| match env::var(key) {
            Ok(text) => text.parse().unwrap_or_else(|_| panic!("{key}: {text:?} is not a number")),
            Err(_) => default,
        };
        Self { executions: number(EXECUTIONS_KEY, EXECUTIONS), seed: number(SEED_KEY, 0) }
    }
}

/// What a run met.
#[derive(Default)]
struct Tally {
    accepted: u64,
    refused: BTreeMap<&'static str, u64>,
    longest: Duration,
}

fn run<T: Target>(name: &str) {
    let plan = Plan::of_environment();
    let mut rng = Rng::with_seed(plan.seed);
    let mut corpus = Corpus::new(T::seeds(&mut rng));
    let mut tally = Tally::default();
    let resident_before = resident_peak_bytes();
    let begin = Instant::now();
    for nth in 0..plan.executions {
        let (payload, body) = payload_of::<T>(&corpus, &mut rng);
        let started = Instant::now();
        let read = catch_unwind(AssertUnwindSafe(|| T::read(&payload, &mut rng))).unwrap_or_else(|panic| {
            eprintln!("{name}, seed {}, execution {nth}: payload {payload:02x?}", plan.seed);
            resume_unwind(panic);
        });
        let took = started.elapsed();
        assert!(took < EXECUTION_MAX, "{took:?} for payload {payload:02x?}");
        tally.longest = tally.longest.max(took);
        let result = match read {
            Ok(shape) => {
                tally.accepted += 1;
                shape
            }
            Err(error) => {
                let kind = kind_of(&error);
                *tally.refused.entry(kind).or_default() += 1;
                kind.to_owned()
            }
        };
        if let Some(body) = body {
            corpus.add_if_new(result, body, &mut rng);
        }
    }
    let grown = resident_peak_bytes().saturating_sub(resident_before);
    assert!(grown < GROWTH_BYTES_MAX, "the process grew by {grown} bytes");
    assert!(
        tally.accepted > 0 && tally.refused.len() > 3,
        "mutations are too tame or too wild: {:?}",
        tally.refused
    );
    let seconds = begin.elapsed().as_secs_f64();
    println!(
        "{name}: seed {}, {} executions in {seconds:.0} s, 0 failures; {} accepted, refused as {:?}; corpus {}, longest {:?}, \
         grown by {} MiB",
        plan.seed,
        plan.executions,
        tally.accepted,
        tally.refused,
        corpus.len(),
        tally.longest,
        grown >> 20,
    );
}

/// A payload to read, and its body if it has one of its own.
fn payload_of<T: Target>(corpus: &Corpus, rng: &mut Rng) -> (Vec<u8>, Option<Vec<u8>>) {
    let mut body = corpus.pick(rng).to_vec();
    let sealed = |body: &[u8]| T::FORM.seal(body).expect("bodies are short").0;
    match rng.u8(..32) {
        0 => ((0..rng.usize(..64)).map(|_| rng.u8(..)).collect(), None),
        1 => {
            let mut payload = sealed(&body);
            mutate(&mut payload, corpus, rng);
            (payload, None)
        }
        2 => {
            let mut compressed = sealed(&body).split_off(5);
            mutate(&mut compressed, corpus, rng);
            (T::FORM.envelop(&compressed).0, None)
        }
        _ => {
            mutate(&mut body, corpus, rng);
            T::fit(&mut body, rng);
            (sealed(&body), Some(body))
        }
    }
}

fn kind_of(error: &CodecError) -> &'static str {
    match error {
        CodecError::TooLarge { .. } => "too large",
        CodecError::TooMany { .. } => "too many",
        CodecError::Compress(_) | CodecError::NotAChunk { .. } => panic!("reading does not encode: {error}"),
        CodecError::Truncated => "truncated",
        CodecError::WrongForm { .. } => "wrong form",
        CodecError::UnknownVersion { .. } => "unknown version",
        CodecError::Decompress(_) => "decompress",
        CodecError::Checksum { .. } => "checksum",
        CodecError::UnknownKind { .. } => "unknown kind",
        CodecError::WrongBase { .. } => "wrong base",
        CodecError::UnknownGroup { .. } | CodecError::UnknownMetric { .. } => "unknown metric",
        CodecError::Malformed { what } => what,
        CodecError::Trailing { .. } => "trailing",
    }
}

/// The most memory that the process had so far.
fn resident_peak_bytes() -> u64 {
    let status = fs::read_to_string("/proc/self/status").expect("read /proc/self/status");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("VmHWM");
    let kib: u64 = line.trim().trim_end_matches(" kB").parse().expect("VmHWM in kB");
    kib << 10
}
