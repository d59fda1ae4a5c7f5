//! Sessions out of nothing: seeded, plausible, of any size; for the demo, tests and benchmarks.
//!
//! How they compress, `zstd -19 --long=27` per session: generated transcripts 9.3 %, generated
//! streams 9.9 %; real transcripts 11.7 to 15.1 % (18.8 % where images are many), real streams
//! with partial messages 10.3 %, without them 12.8 %. So generated sessions flatter a footprint a
//! little; figures that are to be believed are measured on real ones.
//!
//! A seed gives the same bytes for ever. Sessions of any size come line by line from
//! [`TranscriptLines`] and [`StreamLines`], which take bounded memory:
//!
//! ```
//! use betcode_db::generator::{TranscriptLines, transcript};
//! let lines: usize = TranscriptLines::new(1).take(100).map(|line| line.len()).sum();
//! assert!(lines > 10_000);
//! assert_eq!(transcript(1, 50_000), transcript(1, 50_000));
//! ```

mod awkward;
mod parts;
mod project;
mod rng;
mod stream;
mod text;
mod transcript;

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

pub use awkward::awkward;
pub use rng::Rng;
pub use stream::StreamLines;
pub use transcript::TranscriptLines;

/// A transcript of at least `target_bytes`, ending with a whole line.
#[must_use]
pub fn transcript(seed: u64, target_bytes: usize) -> Vec<u8> {
    file_of(TranscriptLines::new(seed), target_bytes)
}

/// A stream with partial messages of at least `target_bytes`, ending with a whole line.
#[must_use]
pub fn stream(seed: u64, target_bytes: usize) -> Vec<u8> {
    file_of(StreamLines::new(seed), target_bytes)
}

fn file_of(lines: impl Iterator<Item = Vec<u8>>, target_bytes: usize) -> Vec<u8> {
    let mut file = Vec::with_capacity(target_bytes + (64 << 10));
    for line in lines {
        if file.len() >= target_bytes {
            break;
        }
        file.extend(line);
        file.push(b'\n');
    }
    file
}

/// Writes sessions of both kinds below `folder`, as an agent's folder looks: transcripts under
/// `projects/`, streams under `streams/`, `target_bytes` in all. Returns the files.
///
/// # Errors
/// When the disk refuses.
pub fn write_sessions(
    folder: &Path,
    seed: u64,
    sessions: usize,
    target_bytes: u64,
) -> io::Result<Vec<PathBuf>> {
    let mut go_on = || ControlFlow::Continue(());
    let files = write_sessions_while(folder, seed, sessions, target_bytes, &mut go_on);
    files.map(Option::unwrap_or_default)
}

/// As [`write_sessions`], asking before each line whether to go on; `None` when told not to.
///
/// # Errors
/// When the disk refuses.
pub fn write_sessions_while(
    folder: &Path,
    seed: u64,
    sessions: usize,
    target_bytes: u64,
    go_on: &mut dyn FnMut() -> ControlFlow<()>,
) -> io::Result<Option<Vec<PathBuf>>> {
    let mut files = Vec::new();
    let each = target_bytes / sessions.max(1) as u64;
    for number in 0..sessions {
        let seed = seed.wrapping_mul(1_000).wrapping_add(number as u64);
        // Sizes differ as they do in life: half of the share to one and a half.
        let bytes = each / 2 + each * (number as u64 % 5) / 4;
        // Most history is transcripts; captured streams are what the daemon records.
        let (path, lines): (_, Box<dyn Iterator<Item = Vec<u8>>>) = if number % 3 == 2 {
            let lines = StreamLines::new(seed);
            (
                format!("streams/{}.jsonl", lines.session_id()),
                Box::new(lines),
            )
        } else {
            let lines = TranscriptLines::new(seed);
            let project = number % 2;
            (
                format!("projects/project-{project}/{}.jsonl", lines.session_id()),
                Box::new(lines),
            )
        };
        let path = folder.join(path);
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent)?;
        }
        let mut file = BufWriter::new(File::create(&path)?);
        let mut written = 0;
        for line in lines {
            if written >= bytes {
                break;
            }
            if go_on().is_break() {
                return Ok(None);
            }
            file.write_all(&line)?;
            file.write_all(b"\n")?;
            written += line.len() as u64 + 1;
        }
        file.flush()?;
        files.push(path);
    }
    Ok(Some(files))
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    #[test]
    fn every_line_is_an_object_with_a_type() {
        for line in TranscriptLines::new(5)
            .take(500)
            .chain(StreamLines::new(5).take(3000))
        {
            let value: Value = serde_json::from_slice(&line).unwrap();
            assert!(value["type"].is_string());
        }
    }

    #[test]
    fn transcript_lines_form_a_chain() {
        let mut last = Value::Null;
        for line in TranscriptLines::new(9).skip(1).take(300) {
            let value: Value = serde_json::from_slice(&line).unwrap();
            assert_eq!(value["parentUuid"], last);
            last = value["uuid"].clone();
        }
    }

    #[test]
    fn a_seed_gives_the_same_bytes_and_another_seed_others() {
        assert_eq!(stream(3, 100_000), stream(3, 100_000));
        assert_ne!(transcript(3, 10_000), transcript(4, 10_000));
        assert!(transcript(3, 1_000_000).len() >= 1_000_000);
    }

    #[test]
    fn awkward_files_hold_what_they_promise() {
        for seed in 0..20 {
            let file = awkward(seed);
            assert!(
                file.contains(&0) && std::str::from_utf8(&file).is_err(),
                "{seed}"
            );
            assert_eq!(file.ends_with(b"\n"), seed % 2 == 0, "{seed}");
            assert!(file.windows(2).any(|w| w == b"\r\n"), "{seed}");
        }
    }

    /// The claim of this module's docs. Long-distance matching over the whole file is the bar.
    #[test]
    fn sessions_compress_like_real_ones() {
        for (name, bytes) in [
            ("transcript", transcript(11, 4 << 20)),
            ("stream", stream(11, 4 << 20)),
        ] {
            let mut encoder = zstd::bulk::Compressor::new(19).unwrap();
            encoder.long_distance_matching(true).unwrap();
            encoder.window_log(27).unwrap();
            let ratio = encoder.compress(&bytes).unwrap().len() as f64 / bytes.len() as f64;
            assert!((0.06..0.16).contains(&ratio), "{name}: {ratio:.4}");
        }
    }
}
