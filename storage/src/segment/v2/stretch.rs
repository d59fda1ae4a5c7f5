//! Stretches: the 32 bytes before a position, known by a rolling hash (a gear hash).
//!
//! Whether a position is *sampled* depends on its hash alone, and the hash on these bytes alone. So a passage
//! is sampled at the same positions wherever it occurs.

/// Bytes that a hash depends on.
pub(super) const STRETCH_BYTES: usize = 32;

/// Random numbers, one for each value of a byte (splitmix64).
static GEAR: [u64; 256] = gear();

const fn gear() -> [u64; 256] {
    let mut table = [0; 256];
    let mut state = 0_u64;
    let mut at = 0;
    while at < 256 {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        table[at] = z ^ (z >> 31);
        at += 1;
    }
    table
}

/// The hash one byte further. Each byte shifts two bits out, so that after [`STRETCH_BYTES`] more a byte no
/// longer counts.
pub(super) fn rolled(hash: u64, byte: u8) -> u64 {
    (hash << 2).wrapping_add(GEAR[usize::from(byte)])
}

/// Whether a hash is in a sample of one in `one_in`. A hash in a sparse sample is in every denser one.
pub(super) fn is_sampled(hash: u64, one_in: u64) -> bool {
    hash < u64::MAX / one_in
}

/// Positions that are hashed before any of the sampled ones among them is looked at.
const BLOCK_BYTES: usize = 256;

/// The sampled positions of a block of bytes.
///
/// Which positions are sampled cannot be predicted, so a branch on it would cost more than the hash. They are
/// therefore listed without one, and visited afterwards.
pub(super) struct Sampled {
    /// Where each stretch ends, counted from the block's beginning, and its hash.
    ends: [(u32, u64); BLOCK_BYTES],
    count: usize,
}

impl Sampled {
    pub(super) fn new() -> Self {
        Self {
            ends: [(0, 0); BLOCK_BYTES],
            count: 0,
        }
    }

    /// Lists those among the first [`BLOCK_BYTES`] of `bytes` instead of what was listed before, and rolls `hash`
    /// on over them. Returns how many bytes these are.
    pub(super) fn list(&mut self, bytes: &[u8], one_in: u64, hash: &mut u64) -> usize {
        let block = &bytes[..bytes.len().min(BLOCK_BYTES)];
        let mut count = 0;
        let mut note = |end: usize, hash: u64| {
            // There are no more ends than bytes: the remainder spares a check of bounds, and changes nothing.
            self.ends[count % BLOCK_BYTES] = (end as u32, hash);
            count += usize::from(is_sampled(hash, one_in));
        };
        let (pairs, odd) = block.as_chunks::<2>();
        for (&[a, b], at) in pairs.iter().zip((0..).step_by(2)) {
            // Both follow from the hash before, so that the second need not wait for the first.
            note(at + 1, rolled(*hash, a));
            *hash = (*hash << 4).wrapping_add(rolled(GEAR[usize::from(a)], b));
            note(at + 2, *hash);
        }
        if let [last] = *odd {
            *hash = rolled(*hash, last);
            note(block.len(), *hash);
        }
        self.count = count;
        block.len()
    }

    pub(super) fn ends(&self) -> impl Iterator<Item = (usize, u64)> {
        let listed = &self.ends[..self.count];
        listed.iter().map(|&(end, hash)| (end as usize, hash))
    }
}

/// Calls `visit(start, hash)` for each sampled stretch of `bytes`.
pub(super) fn each_sampled(bytes: &[u8], one_in: u64, mut visit: impl FnMut(usize, u64)) {
    let mut sampled = Sampled::new();
    let (mut at, mut hash) = (0, 0);
    while at < bytes.len() {
        let listed = sampled.list(&bytes[at..], one_in, &mut hash);
        for (end, hash) in sampled.ends() {
            if let Some(start) = (at + end).checked_sub(STRETCH_BYTES) {
                visit(start, hash);
            }
        }
        at += listed;
    }
}

#[cfg(test)]
mod tests {
    use betcode_test_support::noise;

    use super::*;

    #[test]
    fn the_same_stretches_are_sampled_as_byte_by_byte_however_long_the_text_is() {
        for length in (0..70)
            .chain(BLOCK_BYTES - 2..BLOCK_BYTES + 35)
            .chain([5_000])
        {
            let text = noise(length as u64, length);
            for one_in in [1, 2, 16] {
                let mut expected = Vec::new();
                for start in 0..(length + 1).saturating_sub(STRETCH_BYTES) {
                    let stretch = &text[start..start + STRETCH_BYTES];
                    let hash = stretch.iter().fold(0, |hash, &byte| rolled(hash, byte));
                    if is_sampled(hash, one_in) {
                        expected.push((start, hash));
                    }
                }
                let mut found = Vec::new();
                each_sampled(&text, one_in, |start, hash| found.push((start, hash)));
                assert_eq!(found, expected, "{length} bytes, one in {one_in}");
            }
        }
    }
}
