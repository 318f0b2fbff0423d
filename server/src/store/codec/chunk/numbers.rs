//! A column of numbers as the smallest of what is known of it: a constant, its steps, or how its steps change.
//!
//! `order and shift (1 byte) · first number · steps`; nothing at all for no numbers. Steps are zigzag varints, all divided by
//! the power of two that they have in common (pages, blocks). Steps are differences, or differences of these; they are
//! written *dense*, one each, or *sparse*: `count · gaps · steps` of those that are not zero. A constant is sparse without a step.

use super::super::{
    CodecError,
    varint::{Reader, put_varint, unzigzag, varint_len, zigzag},
};

/// Steps are differences of differences.
const SECOND_ORDER: u8 = 1;
/// Every step is written, also zeros.
const DENSE: u8 = 2;
/// Above these two, the shift: six bits.
const SHIFT_AT: u8 = 2;

/// What is reused from column to column.
#[derive(Default)]
pub(super) struct NumbersWriter {
    numbers: Vec<u64>,
    /// Zigzag steps of the first and second order.
    steps: [Vec<u64>; 2],
}

/// What one way to write steps takes.
#[derive(Clone, Copy)]
struct Cost {
    dense: usize,
    sparse: usize,
    /// Steps that are not zero.
    count: usize,
}

impl NumbersWriter {
    pub(super) fn put(&mut self, out: &mut Vec<u8>, numbers: impl Iterator<Item = u64>) {
        self.numbers.clear();
        self.numbers.extend(numbers);
        let Some(first) = self.numbers.first() else { return };
        let differences = self.numbers.windows(2).map(|pair| pair[1].wrapping_sub(pair[0]));
        let bits = differences.clone().fold(0, |bits, difference| bits | difference);
        // At most 63, also for no bit at all.
        let shift = bits.trailing_zeros() & 63;
        out.push(0);
        let head = out.len() - 1;
        put_varint(out, *first);
        if bits == 0 {
            return put_varint(out, 0);
        }
        let [firsts, seconds] = &mut self.steps;
        firsts.clear();
        seconds.clear();
        let mut before = 0_u64;
        for difference in differences {
            let step = (difference.cast_signed() >> shift).cast_unsigned();
            firsts.push(zigzag(step));
            seconds.push(zigzag(step.wrapping_sub(before)));
            before = step;
        }
        let costs = self.steps.each_ref().map(|steps| cost_of(steps));
        let second_order = costs[1].dense.min(costs[1].sparse) < costs[0].dense.min(costs[0].sparse);
        let (cost, steps) = (costs[usize::from(second_order)], &self.steps[usize::from(second_order)]);
        let is_dense = cost.dense <= cost.sparse;
        let order = if second_order { SECOND_ORDER } else { 0 };
        let density = if is_dense { DENSE } else { 0 };
        out[head] = (u8::try_from(shift).unwrap_or_default() << SHIFT_AT) | density | order;
        if is_dense { put_all(out, steps) } else { put_sparse(out, steps, cost.count) }
    }
}

fn cost_of(steps: &[u64]) -> Cost {
    let dense = steps.iter().map(|step| varint_len(*step)).sum();
    let count = steps.iter().filter(|step| **step != 0).count();
    // A zero that is left out saves a byte, and any other step costs a gap of a byte at least.
    if count * 2 > steps.len() {
        return Cost { dense, sparse: usize::MAX, count };
    }
    let mut sparse = varint_len(count as u64) + dense - (steps.len() - count);
    let mut previous = 0;
    for (at, _) in steps.iter().enumerate().filter(|(_, step)| **step != 0) {
        sparse += varint_len((at - previous) as u64);
        previous = at;
    }
    Cost { dense, sparse, count }
}

fn put_all(out: &mut Vec<u8>, steps: &[u64]) {
    for step in steps {
        put_varint(out, *step);
    }
}

/// Gaps first: of metrics that change at the same ticks they are the same bytes, which zstd finds.
fn put_sparse(out: &mut Vec<u8>, steps: &[u64], count: usize) {
    put_varint(out, count as u64);
    let mut previous = 0;
    for (at, _) in steps.iter().enumerate().filter(|(_, step)| **step != 0) {
        put_varint(out, (at - previous) as u64);
        previous = at;
    }
    for step in steps.iter().filter(|step| **step != 0) {
        put_varint(out, *step);
    }
}

/// Reads `count` numbers. The caller bounds `count`: a few bytes may say all of them.
pub(super) fn read_numbers(reader: &mut Reader<'_>, count: usize) -> Result<Vec<u64>, CodecError> {
    let mut numbers = Vec::new();
    if count == 0 {
        return Ok(numbers);
    }
    let [head] = reader.bytes()?;
    let first = reader.varint()?;
    numbers.resize(count, 0);
    let steps = &mut numbers[1..];
    if head & DENSE == 0 {
        read_sparse(reader, steps)?;
    } else {
        for step in &mut *steps {
            *step = unzigzag(reader.varint()?);
        }
    }
    if head & SECOND_ORDER != 0 {
        let mut step = 0_u64;
        for change in &mut *steps {
            step = step.wrapping_add(*change);
            *change = step;
        }
    }
    let shift = head >> SHIFT_AT;
    let mut number = first;
    numbers[0] = first;
    for step in &mut numbers[1..] {
        number = number.wrapping_add(*step << shift);
        *step = number;
    }
    Ok(numbers)
}

fn read_sparse(reader: &mut Reader<'_>, steps: &mut [u64]) -> Result<(), CodecError> {
    const BEHIND_END: CodecError = CodecError::Malformed { what: "a step behind the last number" };
    let count = reader.varint()?;
    let count = usize::try_from(count).ok().filter(|count| *count <= steps.len()).ok_or(BEHIND_END)?;
    let mut gaps = reader.clone();
    for _ in 0..count {
        reader.varint()?;
    }
    let mut at = 0_usize;
    for nth in 0..count {
        let gap = gaps.varint()?;
        if gap == 0 && nth > 0 {
            return Err(CodecError::Malformed { what: "two steps at one number" });
        }
        let gap = usize::try_from(gap).map_err(|_| BEHIND_END)?;
        at = at.checked_add(gap).filter(|at| *at < steps.len()).ok_or(BEHIND_END)?;
        steps[at] = unzigzag(reader.varint()?);
    }
    Ok(())
}
