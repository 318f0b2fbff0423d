//! What is mutated, and how: bodies that led to something new are mutated further.

use std::collections::HashSet;

use fastrand::Rng;

use super::super::varint::put_varint;

/// The most bodies, and the longest of them.
const BODIES_MAX: usize = 2_048;
const BODY_LEN_MAX: usize = 4_096;

/// Bodies, by the results that they led to.
pub(super) struct Corpus {
    bodies: Vec<Vec<u8>>,
    results: HashSet<String>,
}

impl Corpus {
    pub(super) fn new(bodies: Vec<Vec<u8>>) -> Self {
        Self { bodies, results: HashSet::new() }
    }

    pub(super) fn len(&self) -> usize {
        self.bodies.len()
    }

    pub(super) fn pick(&self, rng: &mut Rng) -> &[u8] {
        &self.bodies[rng.usize(..self.bodies.len())]
    }

    /// Keeps a body whose result no other had.
    pub(super) fn add_if_new(&mut self, result: String, body: Vec<u8>, rng: &mut Rng) {
        if body.len() > BODY_LEN_MAX || !self.results.insert(result) {
            return;
        }
        if self.bodies.len() < BODIES_MAX {
            self.bodies.push(body);
        } else {
            let at = rng.usize(..BODIES_MAX);
            self.bodies[at] = body;
        }
    }
}

/// Changes some bytes, one time or several.
pub(super) fn mutate(bytes: &mut Vec<u8>, corpus: &Corpus, rng: &mut Rng) {
    for _ in 0..=rng.u32(..4) {
        mutate_once(bytes, corpus, rng);
        if rng.bool() {
            break;
        }
    }
}

fn mutate_once(bytes: &mut Vec<u8>, corpus: &Corpus, rng: &mut Rng) {
    let at = rng.usize(..=bytes.len());
    let end = at + rng.usize(..=(bytes.len() - at).min(16));
    match rng.u8(..9) {
        0 => bytes.iter_mut().skip(at).take(1).for_each(|byte| *byte ^= 1 << rng.u8(..8)),
        1 => bytes.iter_mut().skip(at).take(1).for_each(|byte| *byte = rng.u8(..)),
        2 => {
            let step = if rng.bool() { 1 } else { u8::MAX };
            bytes.iter_mut().skip(at).take(1).for_each(|byte| *byte = byte.wrapping_add(step));
        }
        3 => bytes.insert(at, *rng.choice(&[0, 1, 2, 0x7f, 0x80, 0xff]).expect("some")),
        4 => drop(bytes.drain(at..end)),
        5 => bytes.extend_from_within(at..end),
        6 => bytes.truncate(at),
        7 => {
            // A number of any magnitude instead of what is there.
            let mut number = Vec::new();
            put_varint(&mut number, rng.u64(..) >> rng.u32(..64));
            bytes.splice(at..end, number);
        }
        _ => {
            let other = corpus.pick(rng);
            let from = rng.usize(..=other.len());
            bytes.splice(at..end, other[from..].iter().take(rng.usize(..64)).copied());
        }
    }
}
