//! zstd frames without magic number, size or checksum: the segment around them has all three.

use zstd::zstd_safe::{
    CCtx, CParameter, DCtx, DParameter, DictAttachPref, FrameFormat, compress_bound, get_error_name,
};

use super::super::SegmentError;
use crate::limits::ZSTD_WINDOW_LOG_MAX;

/// Window for usual segments with their base.
const WINDOW_LOG: u32 = 24;
/// Larger inputs are compressed at [`LARGE_LEVEL_MAX`] at most, to bound the memory of a step: the deep
/// levels' tables take 80 MB besides the input.
const LARGE_BYTES: usize = 1 << WINDOW_LOG;
const LARGE_LEVEL_MAX: i32 = 9;

/// zstd's tables for [`super::DEEP_LEVEL`] are made for inputs a hundred times as big as ours. A hash table of
/// 2^17 positions instead of 2^22 stays in a core's cache, which is a tenth faster, and the search trees
/// that it leads to find the same.
const DEEP_HASH_LOG: u32 = 17;
/// Search trees of 2^20 positions instead of 2^21 are another tenth faster. They are enough as long as they
/// cover two thirds of the dictionary; with a larger dictionary the result would be up to 2 % larger.
const DEEP_CHAIN_LOGS: [u32; 2] = [21, 22];

/// Copies leave little for the quick tier's zstd to find. With tables of 2^17 positions instead of 2^18, of which
/// those of the frame and of the dictionary fit into a core's cache together, encoding is a tenth faster, and at
/// most 1.6 % larger.
const QUICK_TABLE_LOG: u32 = 17;

/// The tables of the blobs' level would take 80 MB, too much for a step with large pictures, and pictures have
/// few repeats to find with them.
const BLOB_HASH_LOG: u32 = 20;
const BLOB_CHAIN_LOG: u32 = 22;

/// zstd's own settings for the level look for matches of five bytes and more, and take a match of 48 without
/// looking for a better one. Ours, three and 128, save 1 % of most histories and a seventh of some.
const DEEP_MATCH_BYTES_MIN: u32 = 3;
const DEEP_TARGET_LENGTH: u32 = 128;

/// An *attached* dictionary is searched in place, and zstd then makes the frame's tables as small as the
/// dictionary's. In an input more than this many times as long, only its last bytes would be found in them. So
/// a dictionary as short as that is *loaded* into the frame's own tables, which takes little time.
const ATTACHED_INPUT_FACTOR_MAX: usize = 12;

fn deep_chain_log(dictionary_bytes: usize) -> u32 {
    let [small, large] = DEEP_CHAIN_LOGS;
    // A tree takes two entries for a position.
    let positions = 1 << (small - 1);
    if dictionary_bytes / 3 * 2 <= positions {
        small
    } else {
        large
    }
}

/// zstd's code of an allocation that failed: `ZSTD_error_memory_allocation`, as its functions return it.
const OUT_OF_MEMORY: usize = 64_usize.wrapping_neg();

pub(in super::super) fn zstd_error(code: usize) -> SegmentError {
    match code {
        OUT_OF_MEMORY => SegmentError::OutOfMemory,
        _ => SegmentError::Zstd {
            what: get_error_name(code).to_owned(),
        },
    }
}

/// As [`CCtx::create`], which panics where there is no memory for it.
pub(in super::super) fn new_compression() -> Result<CCtx<'static>, SegmentError> {
    CCtx::try_create().ok_or(SegmentError::OutOfMemory)
}

/// As [`DCtx::create`], which panics where there is no memory for it.
pub(in super::super) fn new_decompression() -> Result<DCtx<'static>, SegmentError> {
    DCtx::try_create().ok_or(SegmentError::OutOfMemory)
}

/// Compresses frame after frame at one level, with one dictionary.
pub(in super::super) struct Compressor {
    context: CCtx<'static>,
    level: i32,
    dictionary_bytes: usize,
}

impl Compressor {
    /// `dictionary` is content that frames may refer to; empty for none.
    pub(in super::super) fn new(level: i32, dictionary: &[u8]) -> Result<Self, SegmentError> {
        let mut context = new_compression()?;
        let mut set = |parameter| context.set_parameter(parameter).map_err(zstd_error);
        set(CParameter::CompressionLevel(level))?;
        set(CParameter::WindowLog(WINDOW_LOG))?;
        set(CParameter::Format(FrameFormat::Magicless))?;
        set(CParameter::ContentSizeFlag(false))?;
        set(CParameter::ChecksumFlag(false))?;
        set(CParameter::DictIdFlag(false))?;
        if !dictionary.is_empty() {
            context.load_dictionary(dictionary).map_err(zstd_error)?;
        }
        Ok(Self {
            context,
            level,
            dictionary_bytes: dictionary.len(),
        })
    }

    pub(in super::super) fn compress(&mut self, bytes: &[u8]) -> Result<Vec<u8>, SegmentError> {
        /// zstd takes this value for the level's own.
        const OF_THE_LEVEL: u32 = 0;
        let (level, window_log) = if bytes.len() > LARGE_BYTES {
            (self.level.min(LARGE_LEVEL_MAX), ZSTD_WINDOW_LOG_MAX)
        } else {
            (self.level, WINDOW_LOG)
        };
        let attach = if bytes.len() / ATTACHED_INPUT_FACTOR_MAX <= self.dictionary_bytes {
            DictAttachPref::ForceAttach
        } else {
            DictAttachPref::ForceLoad
        };
        let is_deep = level == super::DEEP_LEVEL;
        let deep = |value| if is_deep { value } else { OF_THE_LEVEL };
        let mut set = |parameter| self.context.set_parameter(parameter).map_err(zstd_error);
        set(CParameter::CompressionLevel(level))?;
        set(CParameter::WindowLog(window_log))?;
        let (hash_log, chain_log) = match level {
            super::DEEP_LEVEL => (DEEP_HASH_LOG, deep_chain_log(self.dictionary_bytes)),
            super::BLOB_LEVEL_DEEP => (BLOB_HASH_LOG, BLOB_CHAIN_LOG),
            super::QUICK_LEVEL => (QUICK_TABLE_LOG, QUICK_TABLE_LOG),
            _ => (OF_THE_LEVEL, OF_THE_LEVEL),
        };
        set(CParameter::HashLog(hash_log))?;
        set(CParameter::ChainLog(chain_log))?;
        set(CParameter::MinMatch(deep(DEEP_MATCH_BYTES_MIN)))?;
        set(CParameter::TargetLength(deep(DEEP_TARGET_LENGTH)))?;
        set(CParameter::ForceAttachDict(attach))?;
        let mut frame = Vec::with_capacity(compress_bound(bytes.len()));
        self.context
            .compress2(&mut frame, bytes)
            .map_err(zstd_error)?;
        Ok(frame)
    }
}

/// Decompresses frame after frame with one context, which is expensive to create.
#[derive(Default)]
pub(in super::super) struct Decompressor {
    context: Option<DCtx<'static>>,
}

impl std::fmt::Debug for Decompressor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Decompressor")
    }
}

impl Decompressor {
    /// Decompresses a frame that must yield exactly `raw_bytes` into `raw` (emptied first).
    /// Allocates no more than that, unless `raw` has more already.
    pub(in super::super) fn decompress(
        &mut self,
        frame: &[u8],
        dictionary: &[u8],
        raw_bytes: usize,
        part: &'static str,
        raw: &mut Vec<u8>,
    ) -> Result<(), SegmentError> {
        raw.clear();
        if raw_bytes == 0 && frame.is_empty() {
            return Ok(());
        }
        raw.reserve_exact(raw_bytes);
        let context = match &mut self.context {
            Some(context) => context,
            None => self.context.insert(new_context()?),
        };
        let found = match dictionary {
            [] => context.decompress(raw, frame),
            _ => context.decompress_using_dict(raw, frame, dictionary),
        };
        // zstd writes into the vector's capacity, which may be more than was asked for.
        match found {
            Ok(found) if found == raw_bytes => Ok(()),
            Ok(found) => Err(SegmentError::Truncated {
                part,
                needed: raw_bytes,
                found,
            }),
            Err(code) => {
                // Begin with a new one after a failure.
                self.context = None;
                Err(zstd_error(code))
            }
        }
    }
}

fn new_context() -> Result<DCtx<'static>, SegmentError> {
    let mut context = new_decompression()?;
    context
        .set_parameter(DParameter::Format(FrameFormat::Magicless))
        .map_err(zstd_error)?;
    context
        .set_parameter(DParameter::WindowLogMax(ZSTD_WINDOW_LOG_MAX))
        .map_err(zstd_error)?;
    Ok(context)
}

/// As [`Decompressor::decompress`], for a single frame.
pub(in super::super) fn decompress(
    frame: &[u8],
    dictionary: &[u8],
    raw_bytes: usize,
    part: &'static str,
) -> Result<Vec<u8>, SegmentError> {
    let mut raw = Vec::new();
    Decompressor::default().decompress(frame, dictionary, raw_bytes, part, &mut raw)?;
    Ok(raw)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lines of 64 bytes, each of them one of a thousand: what a line repeats is far behind it.
    fn text_that_repeats_from_afar() -> Vec<u8> {
        let mut state = 1_u64;
        let mut next = || {
            state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
            state >> 33
        };
        let pool: Vec<String> = (0..1000)
            .map(|_| format!("{:064x}", next() * next()))
            .collect();
        let picked = (0..16_000).map(|_| pool[next() as usize % pool.len()].as_bytes());
        picked.collect::<Vec<_>>().concat()
    }

    #[test]
    fn want_of_memory_is_told_from_what_is_wrong_with_the_bytes() {
        use zstd::zstd_safe::zstd_sys::ZSTD_ErrorCode;
        let code = |code: ZSTD_ErrorCode| (code as usize).wrapping_neg();
        let no_memory = code(ZSTD_ErrorCode::ZSTD_error_memory_allocation);
        assert_eq!(zstd_error(no_memory), SegmentError::OutOfMemory);
        let damaged = code(ZSTD_ErrorCode::ZSTD_error_corruption_detected);
        assert!(matches!(zstd_error(damaged), SegmentError::Zstd { .. }));
    }

    #[test]
    fn a_short_dictionary_hides_no_repeats_of_a_long_frame() {
        let text = text_that_repeats_from_afar();
        let dictionary: Vec<u8> = (0..2048_u32).map(|n| ((n * n) >> 5) as u8).collect();
        for level in [4, super::super::DEEP_LEVEL] {
            let frame_with = |dictionary: &[u8]| {
                let mut compressor = Compressor::new(level, dictionary).unwrap();
                compressor.compress(&text).unwrap()
            };
            let (alone, with) = (frame_with(&[]), frame_with(&dictionary));
            assert!(
                with.len() <= alone.len() + alone.len() / 50,
                "level {level}: {} bytes, without a dictionary {}",
                with.len(),
                alone.len()
            );
            assert!(decompress(&with, &dictionary, text.len(), "test").unwrap() == text);
        }
    }
}
