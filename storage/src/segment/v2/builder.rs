//! Chooses what goes into a base: what occurs in two or more segments of a project.
//!
//! Two passes over the same segments in the same order, so that none needs to stay in memory:
//!
//! 1. [`BaseBuilder::observe`] counts, by hash, in how many segments a stretch of 32 bytes occurs.
//!    A sample decided by the hash itself is counted, so all segments count the same stretches.
//! 2. [`BaseCollector::collect`] takes the runs of stretches that occur more than once, at their
//!    first occurrence, with the short gaps between them: whole passages compress better.
//!
//! What occurs most becomes the base's head, the rest its tail, as far as that may go. Blobs and identifiers that occur in two
//! or more segments go into it as they are.
//!
//! What the first pass has taken apart is kept for the second, as far as [`KEPT_BYTES_MAX`] goes.
//!
//! Memory: about 60 MB for the counts of stretches and up to 25 for those of identifiers, three times
//! the base's text for the runs, what is kept, and one segment.

use std::collections::hash_map;

use xxhash_rust::xxh3::xxh3_128;

use super::super::{Entry, SegmentError};
use super::base::Base;
use super::columns::HashMapOf;
use super::copies::FROM_TAIL_BYTES_MIN;
use super::forms::Id;
use super::stretch::{STRETCH_BYTES, each_sampled, is_sampled};
use super::{Parts, split_for_base};
use crate::limits::{
    BASE_BLOB_BYTES_MAX, BASE_BLOBS_BYTES_MAX, BASE_BLOBS_MAX, BASE_HEAD_BYTES_MAX, BASE_IDS_MAX,
    BASE_TAIL_BYTES_MAX, BASE_TEXT_BYTES_MAX,
};

/// Counts kept; when there are more, every second is forgotten and the sample halves.
const COUNTS_MAX: usize = 1 << 21;
/// Identifiers counted; what comes later is left to its segments.
const IDS_COUNTED_MAX: usize = 1 << 18;
/// One stretch in so many is counted at first.
const SAMPLE_FIRST: u64 = 16;
/// Unshared bytes inside a run that do not end it.
const GAP_BYTES_MAX: usize = 250;
/// Shorter runs are left to the segments.
const RUN_BYTES_MIN: usize = 48;
/// Smaller bases are not worth a row.
const TEXT_BYTES_MIN: usize = 1 << 10;
/// Smaller blobs are left to the segments.
const BLOB_BYTES_MIN: usize = 128;
/// Bytes of segments taken apart that are kept from the first pass for the second.
const KEPT_BYTES_MAX: usize = 32 << 20;
/// zstd takes a dictionary that begins like this for one of its own making.
const DICTIONARY_MAGIC: [u8; 4] = 0xec30_a437_u32.to_le_bytes();
/// Runs are thinned out when they exceed this many times what the base may hold.
const POOL_FACTOR: usize = 3;

#[derive(Debug, Clone, Copy)]
struct Count {
    last_segment: u32,
    segments: u32,
}

/// Counts a segment once, however often something occurs in it.
fn count_in<K>(entry: hash_map::Entry<'_, K, Count>, segment: u32) {
    let count = entry.or_insert(Count {
        last_segment: segment,
        segments: 1,
    });
    if count.last_segment != segment {
        *count = Count {
            last_segment: segment,
            segments: count.segments + 1,
        };
    }
}

/// A segment to be, taken apart: what both passes look at.
#[derive(Debug)]
pub struct TakenApart(Parts);

impl TakenApart {
    /// Takes messages apart.
    ///
    /// # Errors
    /// As for encoding: no messages, or too many.
    pub fn of(entries: &[Entry<'_>]) -> Result<Self, SegmentError> {
        split_for_base(entries).map(Self)
    }
}

/// The first pass.
#[derive(Debug)]
pub struct BaseBuilder {
    stretches: HashMapOf<u64, Count>,
    blobs: HashMapOf<u128, Count>,
    ids: HashMapOf<Id, Count>,
    sample: u64,
    segment: u32,
    /// The first segments, taken apart.
    kept: Vec<Parts>,
    kept_bytes: usize,
}

impl Default for BaseBuilder {
    fn default() -> Self {
        Self {
            stretches: HashMapOf::default(),
            blobs: HashMapOf::default(),
            ids: HashMapOf::default(),
            sample: SAMPLE_FIRST,
            segment: 0,
            kept: Vec::new(),
            kept_bytes: 0,
        }
    }
}

impl BaseBuilder {
    /// A builder that has seen nothing.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Counts what a segment to be holds.
    pub fn observe(&mut self, TakenApart(parts): TakenApart) {
        let segment = self.segment;
        self.segment += 1;
        let (sample, stretches) = (self.sample, &mut self.stretches);
        each_sampled(&parts.main, sample, |_, hash| {
            count_in(stretches.entry(hash), segment);
        });
        while self.stretches.len() > COUNTS_MAX {
            self.sample *= 2;
            let sample = self.sample;
            self.stretches.retain(|&hash, _| is_sampled(hash, sample));
        }
        for &(hash, _) in &parts.blob_list {
            count_in(self.blobs.entry(hash), segment);
        }
        for &id in &parts.id_list {
            if self.ids.contains_key(&id) || self.ids.len() < IDS_COUNTED_MAX {
                count_in(self.ids.entry(id), segment);
            }
        }
        let id_bytes = size_of_val(parts.id_list.as_slice());
        let bytes = parts.main.len() + parts.blobs.len() + id_bytes;
        let all_kept = self.kept.len() == segment as usize;
        if all_kept && self.kept_bytes + bytes <= KEPT_BYTES_MAX {
            self.kept_bytes += bytes;
            self.kept.push(parts);
        }
    }

    /// Begins the second pass. `text_bytes_max` bounds the base's text; at most
    /// [`BASE_TEXT_BYTES_MAX`].
    #[must_use]
    pub fn into_collector(mut self, text_bytes_max: usize) -> BaseCollector {
        self.stretches.retain(|_, count| count.segments > 1);
        self.blobs.retain(|_, count| count.segments > 1);
        self.ids.retain(|_, count| count.segments > 1);
        BaseCollector {
            counts: self,
            text_bytes_max: text_bytes_max.min(BASE_TEXT_BYTES_MAX),
            head_bytes_max: BASE_HEAD_BYTES_MAX,
            runs: Vec::new(),
            run_bytes: 0,
            blobs: Vec::new(),
            blob_bytes: 0,
            ids: Vec::new(),
        }
    }
}

#[derive(Debug)]
struct Run {
    /// Segments, besides the first, in which its stretches occur, on average.
    score: f32,
    bytes: Vec<u8>,
}

/// The second pass.
#[derive(Debug)]
pub struct BaseCollector {
    counts: BaseBuilder,
    text_bytes_max: usize,
    head_bytes_max: usize,
    /// In order of appearance.
    runs: Vec<Run>,
    run_bytes: usize,
    blobs: Vec<(u128, Vec<u8>)>,
    blob_bytes: usize,
    /// In order of appearance, as a session's lines go on.
    ids: Vec<Id>,
}

impl BaseCollector {
    /// Makes the base's head shorter than [`BASE_HEAD_BYTES_MAX`]: for tests and measurements.
    #[must_use]
    pub fn with_head_bytes_max(mut self, head_bytes_max: usize) -> Self {
        self.head_bytes_max = head_bytes_max.min(BASE_HEAD_BYTES_MAX);
        self
    }

    /// Takes what the base should hold of a segment to be.
    pub fn collect(&mut self, TakenApart(parts): &TakenApart) {
        self.collect_parts(parts);
    }

    fn collect_parts(&mut self, parts: &Parts) {
        self.collect_text(&parts.main);
        self.collect_blobs(parts);
        for id in &parts.id_list {
            if self.ids.len() < BASE_IDS_MAX && self.counts.ids.remove(id).is_some() {
                self.ids.push(*id);
            }
        }
        if self.run_bytes > POOL_FACTOR * self.text_bytes_max {
            self.thin(2 * self.text_bytes_max);
        }
    }

    /// Collects from the first segments observed, as many as were kept, and says how many those
    /// are: the second pass goes on behind them.
    pub fn collect_kept(&mut self) -> usize {
        let kept = std::mem::take(&mut self.counts.kept);
        for parts in &kept {
            self.collect_parts(parts);
        }
        kept.len()
    }

    /// Encodes the base at a zstd level, 1 to 22. Nothing if the segments share too little.
    ///
    /// # Errors
    /// What the compressor says.
    pub fn finish(mut self, level: i32) -> Result<Option<Vec<u8>>, SegmentError> {
        self.thin(self.text_bytes_max);
        if self.run_bytes < TEXT_BYTES_MIN && self.blobs.is_empty() {
            return Ok(None);
        }
        let (mut head, mut tail) = (Vec::new(), Vec::new());
        let in_head = self.most(self.head_bytes_max, |_| true);
        let in_tail = self.most(BASE_TAIL_BYTES_MAX, |index| {
            !in_head[index] && self.runs[index].bytes.len() >= FROM_TAIL_BYTES_MIN
        });
        for (index, run) in self.runs.iter().enumerate() {
            if in_head[index] {
                head.extend_from_slice(&run.bytes);
            } else if in_tail[index] {
                tail.extend_from_slice(&run.bytes);
            }
        }
        if head.starts_with(&DICTIONARY_MAGIC) {
            head.remove(0);
        }
        Base::encode(&head, &tail, &self.ids, &self.blobs, level).map(Some)
    }

    fn collect_text(&mut self, text: &[u8]) {
        struct Open {
            start: usize,
            end: usize,
            score: u64,
            stretches: u64,
        }
        let mut open: Option<Open> = None;
        let mut taken = Vec::new();
        let (runs, run_bytes) = (&mut self.runs, &mut self.run_bytes);
        let mut close = |run: Open| {
            // A longer one would fit neither the head nor the tail.
            let end = run.end.min(run.start + BASE_TAIL_BYTES_MAX);
            if end - run.start >= RUN_BYTES_MIN {
                *run_bytes += end - run.start;
                let score = run.score as f32 / run.stretches as f32;
                runs.push(Run {
                    score,
                    bytes: text[run.start..end].to_vec(),
                });
            }
        };
        let (sample, stretches) = (self.counts.sample, &self.counts.stretches);
        each_sampled(text, sample, |at, hash| {
            let Some(count) = stretches.get(&hash) else {
                return;
            };
            taken.push(hash);
            let others = u64::from(count.segments - 1);
            match &mut open {
                Some(run) if at <= run.end + GAP_BYTES_MAX => {
                    run.end = at + STRETCH_BYTES;
                    run.score += others;
                    run.stretches += 1;
                }
                _ => {
                    let end = at + STRETCH_BYTES;
                    let next = Open {
                        start: at,
                        end,
                        score: others,
                        stretches: 1,
                    };
                    if let Some(run) = open.replace(next) {
                        close(run);
                    }
                }
            }
        });
        if let Some(run) = open {
            close(run);
        }
        // What has been taken is not taken again.
        for hash in taken {
            self.counts.stretches.remove(&hash);
        }
    }

    fn collect_blobs(&mut self, parts: &Parts) {
        let mut at = 0;
        for &(hash, length) in &parts.blob_list {
            let bytes = parts.blobs.get(at..at + length).unwrap_or_default();
            at += length;
            let fits = (BLOB_BYTES_MIN..=BASE_BLOB_BYTES_MAX).contains(&length)
                && self.blobs.len() < BASE_BLOBS_MAX
                && self.blob_bytes + length <= BASE_BLOBS_BYTES_MAX;
            if fits && self.counts.blobs.remove(&hash).is_some() {
                debug_assert_eq!(hash, xxh3_128(bytes));
                self.blob_bytes += length;
                self.blobs.push((hash, bytes.to_vec()));
            }
        }
    }

    /// Keeps the runs that occur most, up to `bytes_max`.
    fn thin(&mut self, bytes_max: usize) {
        let mut keep = self.most(bytes_max, |_| true).into_iter();
        self.runs.retain(|_| keep.next().unwrap_or(false));
        self.run_bytes = self.runs.iter().map(|run| run.bytes.len()).sum();
    }

    /// Which runs are among those that occur most, of those that `may` be, up to `bytes_max`.
    fn most(&self, bytes_max: usize, may: impl Fn(usize) -> bool) -> Vec<bool> {
        let mut order: Vec<usize> = (0..self.runs.len()).filter(|&index| may(index)).collect();
        order.sort_by(|&a, &b| self.runs[b].score.total_cmp(&self.runs[a].score));
        let mut among = vec![false; self.runs.len()];
        let mut bytes = 0;
        for index in order {
            let length = self.runs[index].bytes.len();
            if bytes + length <= bytes_max {
                bytes += length;
                among[index] = true;
            }
        }
        among
    }
}
