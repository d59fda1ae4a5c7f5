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

/// Calls `visit(start, hash)` for each sampled stretch of `bytes`.
pub(super) fn each_sampled(bytes: &[u8], one_in: u64, mut visit: impl FnMut(usize, u64)) {
    let mut hash = 0;
    for (at, &byte) in bytes.iter().enumerate() {
        hash = rolled(hash, byte);
        if is_sampled(hash, one_in) && at + 1 >= STRETCH_BYTES {
            visit(at + 1 - STRETCH_BYTES, hash);
        }
    }
}
