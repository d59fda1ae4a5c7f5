//! zstd frames without magic, size or checksum: the segment around them has all three.

use zstd::zstd_safe::{
    CCtx, CParameter, DCtx, DParameter, DictAttachPref, FrameFormat, compress_bound, get_error_name,
};

use super::super::SegmentError;

/// Window of the largest frame, as a power of two: a message of the largest size allowed.
const WINDOW_LOG_MAX: u32 = 27;
/// Window for usual segments with their base.
const WINDOW_LOG: u32 = 24;
/// Inputs beyond this are compressed at [`LARGE_LEVEL_MAX`] at most, to stay within a step's
/// memory: the deep levels' tables take 80 MB beside the input.
const LARGE_BYTES: usize = 1 << WINDOW_LOG;
const LARGE_LEVEL_MAX: i32 = 9;

/// At [`super::DEEP_LEVEL`], zstd looks at half as many candidates for a match as it would: faster by
/// a tenth to a fifth, for less than 1 % of the size.
const DEEP_SEARCH_LOG: u32 = 4;

fn zstd_error(code: usize) -> SegmentError {
    SegmentError::Zstd {
        what: get_error_name(code).to_owned(),
    }
}

/// Compresses frame after frame at one level, with one dictionary.
pub(in super::super) struct Compressor {
    context: CCtx<'static>,
    level: i32,
}

impl Compressor {
    /// `dictionary` is content that frames may refer to; empty for none.
    pub(in super::super) fn new(level: i32, dictionary: &[u8]) -> Result<Self, SegmentError> {
        let mut context = CCtx::create();
        let mut set = |parameter| context.set_parameter(parameter).map_err(zstd_error);
        set(CParameter::CompressionLevel(level))?;
        set(CParameter::WindowLog(WINDOW_LOG))?;
        set(CParameter::Format(FrameFormat::Magicless))?;
        set(CParameter::ContentSizeFlag(false))?;
        set(CParameter::ChecksumFlag(false))?;
        set(CParameter::DictIdFlag(false))?;
        if level == super::DEEP_LEVEL {
            set(CParameter::SearchLog(DEEP_SEARCH_LOG))?;
        }
        if !dictionary.is_empty() {
            // Searched in place. The other ways index the dictionary anew for each frame.
            set(CParameter::ForceAttachDict(DictAttachPref::ForceAttach))?;
            context.load_dictionary(dictionary).map_err(zstd_error)?;
        }
        Ok(Self { context, level })
    }

    pub(in super::super) fn compress(&mut self, bytes: &[u8]) -> Result<Vec<u8>, SegmentError> {
        let large = bytes.len() > LARGE_BYTES;
        let (level, window_log) = if large {
            (self.level.min(LARGE_LEVEL_MAX), WINDOW_LOG_MAX)
        } else {
            (self.level, WINDOW_LOG)
        };
        let mut set = |parameter| self.context.set_parameter(parameter).map_err(zstd_error);
        set(CParameter::CompressionLevel(level))?;
        set(CParameter::WindowLog(window_log))?;
        let mut frame = Vec::with_capacity(compress_bound(bytes.len()));
        self.context
            .compress2(&mut frame, bytes)
            .map_err(zstd_error)?;
        Ok(frame)
    }
}

/// Decompresses frame after frame with one context, which is dear to make.
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
                // What a failed frame leaves in it is not worth knowing.
                self.context = None;
                Err(zstd_error(code))
            }
        }
    }
}

fn new_context() -> Result<DCtx<'static>, SegmentError> {
    let mut context = DCtx::create();
    context
        .set_parameter(DParameter::Format(FrameFormat::Magicless))
        .map_err(zstd_error)?;
    context
        .set_parameter(DParameter::WindowLogMax(WINDOW_LOG_MAX))
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
