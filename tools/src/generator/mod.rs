//! Generates plausible sessions of any size from a seed, for the demo, tests and benchmarks.
//!
//! How they compress, `zstd -19 --long=27` per session: generated transcripts 9.3 %, generated
//! streams 9.9 %; real transcripts 11.7 to 15.1 % (18.8 % where images are many), real streams
//! with partial messages 10.3 %, without them 12.8 %. So generated sessions compress a
//! little better than real ones; published figures are measured on real ones.
//!
//! A seed always gives the same bytes, except for the dates if an end is given. [`TranscriptLines`] and
//! [`StreamLines`] give the lines of endless sessions in bounded memory:
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

/// What [`write_sessions`] writes.
#[derive(Debug, Clone, Copy)]
pub struct Sessions {
    /// What the bytes follow from.
    pub seed: u64,
    /// How many.
    pub sessions: usize,
    /// Of all together.
    pub target_bytes: u64,
    /// When the last session ends, Unix milliseconds: the others end before it, one each
    /// [`BETWEEN_SESSIONS_MS`]. Without it each has the dates of its own seed.
    pub end_ms: Option<i64>,
}

/// From the end of a session to the end of the next: twelve sessions take more than the four weeks that
/// a forecast looks at.
pub const BETWEEN_SESSIONS_MS: i64 = 3 * 86_400_000;

/// Writes sessions of both kinds below `folder`, as an agent's folder looks: transcripts under
/// `projects/`, streams under `streams/`. Asks before each line whether to go on. Returns the files, or
/// `None` when `go_on` says stop.
///
/// # Errors
/// When the disk refuses.
pub fn write_sessions_while(
    folder: &Path,
    wanted: Sessions,
    go_on: &mut dyn FnMut() -> ControlFlow<()>,
) -> io::Result<Option<Vec<PathBuf>>> {
    let mut files = Vec::new();
    let each = wanted.target_bytes / wanted.sessions.max(1) as u64;
    for number in 0..wanted.sessions {
        let seed = wanted.seed.wrapping_mul(1_000).wrapping_add(number as u64);
        // Sizes differ, from half of the average to one and a half.
        let bytes = each / 2 + each * (number as u64 % 5) / 4;
        // The first one ends last: it is a transcript, whose lines all have times. The turns of a stream
        // may be said to have taken longer than the times between its lines.
        let after = (wanted.sessions - number) % wanted.sessions;
        let end_ms = wanted
            .end_ms
            .map(|end_ms| end_ms - after as i64 * BETWEEN_SESSIONS_MS);
        // Most history is transcripts; captured streams are what the daemon records.
        let written = if number % 3 == 2 {
            let lines = StreamLines::new(seed);
            let path = format!("streams/{}.jsonl", lines.session_id());
            let Some(lines) = ending(lines, bytes, end_ms, go_on) else {
                return Ok(None);
            };
            write_session(folder.join(path), lines, bytes, go_on)?
        } else {
            let lines = TranscriptLines::new(seed);
            let project = number % 2;
            let path = format!("projects/project-{project}/{}.jsonl", lines.session_id());
            let Some(lines) = ending(lines, bytes, end_ms, go_on) else {
                return Ok(None);
            };
            write_session(folder.join(path), lines, bytes, go_on)?
        };
        match written {
            Some(path) => files.push(path),
            None => return Ok(None),
        }
    }
    Ok(Some(files))
}

/// Lines with times.
trait Told: Iterator<Item = Vec<u8>> + Clone {
    /// Time of the last line, Unix milliseconds.
    fn now_ms(&self) -> i64;
    /// The same lines, this many milliseconds later, or earlier.
    fn later(self, ms: i64) -> Self;
}

/// The lines, moved in time so that the last one of `bytes` is at `end_ms`, if there is an end; `None` when `go_on`
/// says stop. The length of a line does not depend on its time, so the lines are generated once before to find their
/// end.
fn ending<L: Told>(
    lines: L,
    bytes: u64,
    end_ms: Option<i64>,
    go_on: &mut dyn FnMut() -> ControlFlow<()>,
) -> Option<L> {
    let Some(end_ms) = end_ms else {
        return Some(lines);
    };
    let mut ahead = lines.clone();
    let mut written = 0;
    while written < bytes {
        if go_on().is_break() {
            return None;
        }
        let Some(line) = ahead.next() else { break };
        written += line.len() as u64 + 1;
    }
    // A whole turn is generated at once, so its remaining lines count as well.
    Some(lines.later(end_ms - ahead.now_ms()))
}

/// Writes lines of at least `bytes` bytes.
fn write_session(
    path: PathBuf,
    lines: impl Iterator<Item = Vec<u8>>,
    bytes: u64,
    go_on: &mut dyn FnMut() -> ControlFlow<()>,
) -> io::Result<Option<PathBuf>> {
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
    Ok(Some(path))
}

/// As [`write_sessions_while`], with dates of the seed, and to the end.
///
/// # Errors
/// When the disk refuses.
pub fn write_sessions(
    folder: &Path,
    seed: u64,
    sessions: usize,
    target_bytes: u64,
) -> io::Result<Vec<PathBuf>> {
    let wanted = Sessions {
        seed,
        sessions,
        target_bytes,
        end_ms: None,
    };
    let files = write_sessions_while(folder, wanted, &mut || ControlFlow::Continue(()));
    files.map(Option::unwrap_or_default)
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
    fn sessions_with_an_end_are_the_same_but_for_their_dates_and_end_then() {
        // 2026-02-14, noon.
        const END_MS: i64 = 1_771_070_400_000;
        let written = |end_ms| {
            let folder = tempfile::tempdir().unwrap();
            let wanted = Sessions {
                seed: 5,
                sessions: 4,
                target_bytes: 400_000,
                end_ms,
            };
            let mut go_on = || ControlFlow::Continue(());
            let files = write_sessions_while(folder.path(), wanted, &mut go_on);
            let files = files.unwrap().unwrap();
            let read = |path: &PathBuf| std::fs::read_to_string(path).unwrap();
            files.iter().map(read).collect::<Vec<_>>()
        };
        let ended = written(Some(END_MS));
        assert_eq!(ended, written(Some(END_MS)), "the same bytes again");
        let last_ms = |file: &String| {
            let times = file.lines().filter_map(|line| {
                let line: Value = serde_json::from_str(line).unwrap();
                let time = line["timestamp"]
                    .as_str()?
                    .parse::<chrono::DateTime<chrono::Utc>>();
                Some(time.unwrap().timestamp_millis())
            });
            times.max()
        };
        let minutes_before =
            |file: &String, end_ms: i64| (end_ms - last_ms(file).unwrap()) / 60_000;
        for (number, file) in ended.iter().enumerate() {
            let end_ms = END_MS - (4 - number as i64) % 4 * BETWEEN_SESSIONS_MS;
            assert!((0..60).contains(&minutes_before(file, end_ms)), "{number}");
        }
        let undated = written(None);
        for (ended, undated) in ended.iter().zip(&undated) {
            assert_eq!(ended.len(), undated.len());
            assert_ne!(ended, undated);
        }
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
