//! Chooses what goes into a base: what occurs in two or more segments of a project.
//!
//! In go the project's messages, in batches that segments will be made of, twice and in the same order,
//! so that none has to stay in memory. Out comes an encoded base, or nothing if the segments share too
//! little.
//!
//! 1. [`BaseBuilder::observe`] counts, by hash, in how many segments a stretch of 32 bytes occurs, and
//!    likewise blobs and identifiers. The hash itself decides whether a stretch is counted (see
//!    [`super::stretch`]), so all segments count the same ones.
//! 2. [`BaseCollector::collect`] takes the passages whose stretches occur in more than one segment, where
//!    they occur first. Short gaps between shared stretches are taken with them: whole passages compress
//!    better.
//!
//! The passages that occur in most segments become the base's head, the next ones its tail. Shared blobs
//! and identifiers go into it as they are. The first pass keeps what it has split for the second, up to
//! [`BASE_KEPT_BYTES_MAX`].
//!
//! Memory: about 60 MB for the counts of stretches, up to 25 MB for those of identifiers, three times
//! the base's text for the passages, what is kept, and one segment.

use std::collections::hash_map;

use xxhash_rust::xxh3::xxh3_128;

use super::super::{Entry, SegmentError};
use super::base::Base;
use super::body::Streams;
use super::columns::HashMapOf;
use super::copies::FROM_TAIL_BYTES_MIN;
use super::encoder::split_for_base;
use super::forms::Id;
use super::stretch::{STRETCH_BYTES, each_sampled, is_sampled};
use crate::limits::{
    BASE_BLOB_BYTES_MAX, BASE_BLOBS_BYTES_MAX, BASE_BLOBS_MAX, BASE_HEAD_BYTES_MAX,
    BASE_IDS_COUNTED_MAX, BASE_IDS_MAX, BASE_KEPT_BYTES_MAX, BASE_STRETCHES_COUNTED_MAX,
    BASE_TAIL_BYTES_MAX, BASE_TEXT_BYTES_MAX,
};

/// One stretch in this many is counted, for a base of a quick level.
const SAMPLE_QUICK: u64 = 16;
/// The same for a deep level, at first. A passage is taken from its first sampled stretch to its last, so
/// about as many bytes as this are lost at each of its ends. They then stay in every segment.
const SAMPLE_DEEP: u64 = 2;
/// Stretches counted in a sample denser than [`SAMPLE_QUICK`]. With more, every second is forgotten: in large
/// projects a dense sample takes time and memory and saves little.
const DENSE_STRETCHES_MAX: usize = 1 << 18;
/// The same in projects of short segments, which lose more at the ends of passages.
const DENSE_STRETCHES_MAX_SHORT: usize = 1 << 19;
/// What a segment's text has on average in such projects, at most.
const SHORT_SEGMENT_BYTES_MAX: u64 = 128 << 10;
/// Unshared bytes within a passage that do not end it.
const GAP_BYTES_MAX: usize = 250;
/// Shorter passages are left to the segments.
const PASSAGE_BYTES_MIN: usize = 96;
/// A base with less text and no blob is not worth a row.
const TEXT_BYTES_MIN: usize = 1 << 10;
/// Smaller blobs are left to the segments.
const BLOB_BYTES_MIN: usize = 128;
/// zstd takes content that begins like this for a dictionary that it trained.
const DICTIONARY_MAGIC: [u8; 4] = 0xec30_a437_u32.to_le_bytes();
/// Passages are thinned out when they exceed this many times what the base may hold.
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

/// The messages of a future segment, split: what both passes look at.
#[derive(Debug)]
pub struct TakenApart(Streams);

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
    level: i32,
    segment: u32,
    /// Text of all segments.
    text_bytes: u64,
    /// The first segments.
    kept: Vec<Kept>,
    kept_bytes: usize,
}

/// A segment that the first pass keeps for the second.
#[derive(Debug)]
struct Kept {
    parts: Streams,
    /// Its sampled stretches, unless the sample is a dense one, whose stretches take more memory than the text.
    stretches: Option<Vec<Stretch>>,
}

/// A sampled stretch of a segment's text: where it begins, and its hash.
type Stretch = (u32, u64);

impl BaseBuilder {
    /// A builder that has seen nothing, of a base that is encoded at a zstd level, 1 to 22.
    #[must_use]
    pub fn new(level: i32) -> Self {
        Self {
            stretches: HashMapOf::default(),
            blobs: HashMapOf::default(),
            ids: HashMapOf::default(),
            sample: if super::is_deep(level) {
                SAMPLE_DEEP
            } else {
                SAMPLE_QUICK
            },
            level,
            segment: 0,
            text_bytes: 0,
            kept: Vec::new(),
            kept_bytes: 0,
        }
    }

    /// Counts what a future segment holds.
    pub fn observe(&mut self, TakenApart(parts): TakenApart) {
        let segment = self.segment;
        self.segment += 1;
        self.text_bytes += parts.main.len() as u64;
        // A long segment by itself would take more memory than all may.
        while self.sample < SAMPLE_QUICK
            && parts.main.len() as u64 / self.sample > DENSE_STRETCHES_MAX as u64
        {
            self.forget_every_second();
        }
        let (sample, counts) = (self.sample, &mut self.stretches);
        let mut stretches = (sample >= SAMPLE_QUICK).then(Vec::new);
        each_sampled(&parts.main, sample, |start, hash| {
            count_in(counts.entry(hash), segment);
            if let Some(stretches) = &mut stretches {
                stretches.push((start as u32, hash));
            }
        });
        while self.stretches.len() > self.stretches_max() {
            self.forget_every_second();
        }
        for &(hash, _) in &parts.blob_list {
            count_in(self.blobs.entry(hash), segment);
        }
        for &id in &parts.id_list {
            if self.ids.contains_key(&id) || self.ids.len() < BASE_IDS_COUNTED_MAX {
                count_in(self.ids.entry(id), segment);
            }
        }
        let id_bytes = size_of_val(parts.id_list.as_slice());
        let stretch_bytes = stretches.as_deref().map_or(0, size_of_val);
        let bytes = parts.main.len() + parts.blobs.len() + id_bytes + stretch_bytes;
        let all_kept = self.kept.len() == segment as usize;
        if all_kept && self.kept_bytes + bytes <= BASE_KEPT_BYTES_MAX {
            self.kept_bytes += bytes;
            self.kept.push(Kept { parts, stretches });
        }
    }

    fn forget_every_second(&mut self) {
        self.sample *= 2;
        let sample = self.sample;
        self.stretches.retain(|&hash, _| is_sampled(hash, sample));
    }

    fn stretches_max(&self) -> usize {
        if self.sample >= SAMPLE_QUICK {
            BASE_STRETCHES_COUNTED_MAX
        } else if self.text_bytes > SHORT_SEGMENT_BYTES_MAX * u64::from(self.segment) {
            DENSE_STRETCHES_MAX
        } else {
            DENSE_STRETCHES_MAX_SHORT
        }
    }

    /// Begins the second pass. `text_bytes_max` bounds the base's text; at most
    /// [`BASE_TEXT_BYTES_MAX`].
    #[must_use]
    pub fn into_collector(mut self, text_bytes_max: usize) -> BaseCollector {
        self.stretches.retain(|_, count| count.segments > 1);
        self.stretches.shrink_to_fit();
        self.blobs.retain(|_, count| count.segments > 1);
        self.ids.retain(|_, count| count.segments > 1);
        BaseCollector {
            counts: self,
            text_bytes_max: text_bytes_max.min(BASE_TEXT_BYTES_MAX),
            head_bytes_max: BASE_HEAD_BYTES_MAX,
            passages: Vec::new(),
            passage_bytes: 0,
            blobs: Vec::new(),
            blob_bytes: 0,
            ids: Vec::new(),
        }
    }
}

/// A passage that occurs in two or more segments.
#[derive(Debug)]
struct SharedPassage {
    /// In how many segments besides the first its stretches occur, on average.
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
    passages: Vec<SharedPassage>,
    passage_bytes: usize,
    blobs: Vec<(u128, Vec<u8>)>,
    blob_bytes: usize,
    /// In order of appearance, so that a session refers to one after the other.
    ids: Vec<Id>,
}

impl BaseCollector {
    /// Limits the base's head to less than [`BASE_HEAD_BYTES_MAX`]: for tests and measurements.
    #[must_use]
    pub fn with_head_bytes_max(mut self, head_bytes_max: usize) -> Self {
        self.head_bytes_max = head_bytes_max.min(BASE_HEAD_BYTES_MAX);
        self
    }

    /// Takes what the base should hold of a future segment.
    pub fn collect(&mut self, TakenApart(parts): &TakenApart) {
        self.collect_parts(parts, None);
    }

    fn collect_parts(&mut self, parts: &Streams, stretches: Option<&[Stretch]>) {
        self.collect_text(&parts.main, stretches);
        self.collect_blobs(parts);
        for id in &parts.id_list {
            if self.ids.len() < BASE_IDS_MAX && self.counts.ids.remove(id).is_some() {
                self.ids.push(*id);
            }
        }
        if self.passage_bytes > POOL_FACTOR * self.text_bytes_max {
            self.thin(2 * self.text_bytes_max);
        }
    }

    /// Collects from the segments that the first pass kept, and returns how many these are. The second
    /// pass goes on after them.
    pub fn collect_kept(&mut self) -> usize {
        let kept = std::mem::take(&mut self.counts.kept);
        for Kept { parts, stretches } in &kept {
            self.collect_parts(parts, stretches.as_deref());
        }
        kept.len()
    }

    /// Encodes the base. Nothing if the segments share too little.
    ///
    /// # Errors
    /// What the compressor says.
    pub fn finish(mut self) -> Result<Option<Vec<u8>>, SegmentError> {
        self.thin(self.text_bytes_max);
        if self.passage_bytes < TEXT_BYTES_MIN && self.blobs.is_empty() {
            return Ok(None);
        }
        let (mut head, mut tail) = (Vec::new(), Vec::new());
        let in_head = self.most_shared(self.head_bytes_max, |_| true);
        let in_tail = self.most_shared(BASE_TAIL_BYTES_MAX, |index| {
            !in_head[index] && self.passages[index].bytes.len() >= FROM_TAIL_BYTES_MIN
        });
        for (index, passage) in self.passages.iter().enumerate() {
            if in_head[index] {
                head.extend_from_slice(&passage.bytes);
            } else if in_tail[index] {
                tail.extend_from_slice(&passage.bytes);
            }
        }
        if head.starts_with(&DICTIONARY_MAGIC) {
            head.remove(0);
        }
        let level = self.counts.level;
        Base::encode(&head, &tail, &self.ids, &self.blobs, level).map(Some)
    }

    /// `known` are the text's sampled stretches, if the first pass kept them. They may be of a denser sample than the
    /// one that was counted in the end.
    fn collect_text(&mut self, text: &[u8], known: Option<&[Stretch]>) {
        struct OpenPassage {
            start: usize,
            end: usize,
            score: u64,
            stretches: u64,
        }
        let mut open: Option<OpenPassage> = None;
        let mut taken = Vec::new();
        let (passages, passage_bytes) = (&mut self.passages, &mut self.passage_bytes);
        let mut close = |passage: OpenPassage| {
            // Neither the head nor the tail has space for a longer one.
            let end = passage.end.min(passage.start + BASE_TAIL_BYTES_MAX);
            if end - passage.start >= PASSAGE_BYTES_MIN {
                *passage_bytes += end - passage.start;
                let score = passage.score as f32 / passage.stretches as f32;
                passages.push(SharedPassage {
                    score,
                    bytes: text[passage.start..end].to_vec(),
                });
            }
        };
        let (sample, stretches) = (self.counts.sample, &self.counts.stretches);
        let mut visit = |at, hash| {
            let Some(count) = stretches.get(&hash) else {
                return;
            };
            taken.push(hash);
            let others = u64::from(count.segments - 1);
            match &mut open {
                Some(passage) if at <= passage.end + GAP_BYTES_MAX => {
                    passage.end = at + STRETCH_BYTES;
                    passage.score += others;
                    passage.stretches += 1;
                }
                _ => {
                    let end = at + STRETCH_BYTES;
                    let next = OpenPassage {
                        start: at,
                        end,
                        score: others,
                        stretches: 1,
                    };
                    if let Some(passage) = open.replace(next) {
                        close(passage);
                    }
                }
            }
        };
        match known {
            Some(known) => known
                .iter()
                .for_each(|&(start, hash)| visit(start as usize, hash)),
            None => each_sampled(text, sample, visit),
        }
        if let Some(passage) = open {
            close(passage);
        }
        // Each stretch is taken once.
        for hash in taken {
            self.counts.stretches.remove(&hash);
        }
    }

    fn collect_blobs(&mut self, parts: &Streams) {
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

    /// Keeps the passages that occur in most segments, up to `bytes_max`.
    fn thin(&mut self, bytes_max: usize) {
        let mut keep = self.most_shared(bytes_max, |_| true).into_iter();
        self.passages.retain(|_| keep.next().unwrap_or(false));
        self.passage_bytes = self
            .passages
            .iter()
            .map(|passage| passage.bytes.len())
            .sum();
    }

    /// Of the passages that `is_candidate` allows, those that occur in most segments, up to `bytes_max`.
    fn most_shared(&self, bytes_max: usize, is_candidate: impl Fn(usize) -> bool) -> Vec<bool> {
        let mut order: Vec<usize> = (0..self.passages.len())
            .filter(|&index| is_candidate(index))
            .collect();
        order.sort_by(|&a, &b| self.passages[b].score.total_cmp(&self.passages[a].score));
        let mut chosen = vec![false; self.passages.len()];
        let mut bytes = 0;
        for index in order {
            let length = self.passages[index].bytes.len();
            if bytes + length <= bytes_max {
                bytes += length;
                chosen[index] = true;
            }
        }
        chosen
    }
}
