//! Codec version 2: JSON lines taken apart, like values beside each other, zstd over the result.
//!
//! # What comes in, what goes out
//!
//! [`Encoder::encode`] takes the messages of a session that follow one another, and the project's [`Base`]
//! if there is one, and returns a segment. `decode` takes a segment with its base and returns the
//! messages. `docs/FORMAT.md` has the bytes, `docs/design/codec.md` the reasons and the figures.
//!
//! # One line taken apart
//!
//! ```json
//! {"type":"user","uuid":"0c2f1b1e-9d3a-4b7c-8f00-000012345678","timestamp":"2026-01-02T03:04:05.678Z","n":7,"text":"two\nlines"}
//! ```
//!
//! Its **shape** is the line with a marker byte in place of each value, here written as `⟨kind⟩`. Words such as
//! `user`, which distinguish kinds of lines, stay in it:
//!
//! ```text
//! {"type":"user","uuid":"⟨Uuid⟩","timestamp":"⟨TimeMs⟩Z","n":⟨Integer⟩,"text":"⟨Text⟩"}
//! ```
//!
//! Each **value** goes to the **column** of its kind and key:
//!
//! | column | what is written for this value |
//! |---|---|
//! | `Uuid`, `uuid` | the code of a new UUID of version 4; its 122 random bits are set apart |
//! | `TimeMs`, `timestamp` | milliseconds since the time before it in the segment |
//! | `Integer`, `n` | 7, or the difference from the value before it in the column |
//! | `Text`, `text` | the code of a new string of nine bytes, and `two`, newline, `lines`, unescaped |
//!
//! A later line of the same shape adds a byte that names the shape, and its values. A value that was there
//! before is a **back reference**: a code that says how far back. `docs/FORMAT.md`, *An example*, has this line's
//! bytes, and a test compares them with the encoder's.
//!
//! # Encoding
//!
//! 1. `json` finds the tokens of a line, and `splitter` takes the line apart. It knows values of fixed form
//!    (`forms`: times, identifiers, base64), unescapes text and takes line numbers out of it (`text`), writes
//!    values to `columns` and identifiers to `ids`, and leaves the `shape`. A line that is not JSON
//!    is kept whole, as is a value that would not come back as it was.
//! 2. `body` lays shapes and columns out as one byte stream, the **main stream**. Decoded base64 (**blobs**)
//!    and the random bits of identifiers stay out of it, because they hardly compress.
//! 3. `copies` replaces long repeats in the main stream by back references into the base's text or the
//!    stream itself. What is left are **literals**.
//! 4. `frame` compresses the result with zstd. The head of the base's text is the **dictionary**.
//! 5. `encoder` decodes the segment again. If a byte differs, it encodes all lines whole.
//!
//! # Decoding
//!
//! `decoder` goes backwards: it decompresses the frames, puts the copies back, and lets `joiner` put line
//! after line together in an `output` buffer. Each group of messages has a digest (`groups`), so a
//! mistake is found in the group where it is.
//!
//! # Bases
//!
//! `builder` chooses what the segments of a project share, and `base` stores it.

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
pub use self::encoder::{EncodedSegment, Encoder};
pub use self::techniques::Techniques;

/// The deep tier's zstd level, chosen for its speed. `docs/design/codec.md` compares it with others.
pub const DEEP_LEVEL: i32 = 16;
/// The quick tier's zstd level.
pub const QUICK_LEVEL: i32 = 4;
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
