//! DOC
mod anatomy;
mod base;
mod body;
mod builder;
mod columns;
mod copies;
mod decoder;
mod encoder;
mod forms;
pub(super) mod frame;
mod groups;
mod ids;
mod joiner;
mod json;
mod output;
mod received_times;
mod shape;
mod splitter;
mod stretch;
mod techniques;
#[cfg(test)]
mod tests;
mod text;
mod varint;

pub(super) use self::anatomy::anatomy;
pub use self::base::Base;
pub(super) use self::body::FLAG_BASE;
pub use self::builder::{BaseBuilder, BaseCollector, TakenApart};
pub(super) use self::decoder::{Buffers, base_id, decode};
pub use self::encoder::Encoder;
pub use self::techniques::Techniques;

/// The deep tier's zstd level, chosen for its speed. `docs/design/codec.md` compares it with others.
pub const DEEP_LEVEL: i32 = 16;
/// Levels from this one on belong to the deep tier.
const DEEP_LEVEL_MIN: i32 = 13;
/// Level for blobs in the quick tier and in its bases: there is little to find in them.
const BLOB_LEVEL: i32 = 3;
/// Level for blobs in the deep tier. Only zstd's slowest levels find anything in images: up to 8 % of
/// their size.
const BLOB_LEVEL_DEEP: i32 = 19;

fn is_deep(level: i32) -> bool {
    level >= DEEP_LEVEL_MIN
}

/// The level for blobs of a segment or base that is encoded at `level`.
fn blob_level(level: i32) -> i32 {
    if is_deep(level) {
        level.max(BLOB_LEVEL_DEEP)
    } else {
        level.min(BLOB_LEVEL)
    }
}
