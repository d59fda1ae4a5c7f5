//! Checks that every sequence of a session is in exactly one place.

use super::{ProblemKind, VerifyReport, check_count};
use crate::limits::SESSION_PROBLEMS_MAX;
use crate::session::Session;
use crate::sql::segments::SegmentInfo;

/// Merges a session's segments with its hot messages, which are passed in order, and counts both.
pub(super) struct Places {
    segments: Vec<SegmentInfo>,
    /// How many of them have been passed.
    passed: usize,
    /// The sequence after all that were looked at.
    next: u64,
    hot_messages: u64,
    hot_bytes: u64,
    problems: Vec<(ProblemKind, u64, String)>,
    problems_unlisted: u64,
}

impl Places {
    /// Of segments in order.
    pub(super) fn new(segments: Vec<SegmentInfo>) -> Self {
        Self {
            segments,
            passed: 0,
            next: 1,
            hot_messages: 0,
            hot_bytes: 0,
            problems: Vec::new(),
            problems_unlisted: 0,
        }
    }

    /// The next hot message.
    pub(super) fn hot(&mut self, sequence: u64, raw_bytes: u64) {
        self.pass_segments_before(sequence);
        self.pass(sequence, sequence);
        self.hot_messages += 1;
        self.hot_bytes = self.hot_bytes.saturating_add(raw_bytes);
    }

    fn pass_segments_before(&mut self, sequence: u64) {
        while let Some(segment) = self.segments.get(self.passed)
            && segment.first_sequence < sequence
        {
            self.passed += 1;
            self.pass(segment.first_sequence, segment.last_sequence);
        }
    }

    fn pass(&mut self, first: u64, last: u64) {
        let next = self.next;
        if first > next {
            self.add(
                ProblemKind::Gap,
                next,
                format!("{next} to {} are missing", first - 1),
            );
        } else if first < next {
            let what = format!("{first} to {} stand in two places", last.min(next - 1));
            self.add(ProblemKind::Overlap, first, what);
        }
        self.next = next.max(last + 1);
    }

    fn add(&mut self, kind: ProblemKind, sequence: u64, what: String) {
        if self.problems.len() < SESSION_PROBLEMS_MAX {
            self.problems.push((kind, sequence, what));
        } else {
            self.problems_unlisted += 1;
        }
    }

    /// Reports gaps, overlaps, and wrong sums in the session's row.
    pub(super) fn finish(mut self, session: &Session, report: &mut VerifyReport) {
        self.pass_segments_before(u64::MAX);
        let next = self.next;
        if next <= session.messages {
            let what = format!("{next} to {} are missing", session.messages);
            self.add(ProblemKind::Gap, next, what);
        } else if next > session.messages + 1 {
            let what = format!("there are messages up to {}, beyond the last", next - 1);
            self.add(ProblemKind::Overlap, session.messages + 1, what);
        }
        for (kind, sequence, what) in std::mem::take(&mut self.problems) {
            report.add(kind, session, Some(sequence), what);
        }
        if self.problems_unlisted > 0 {
            let what = format!("{} more gaps or overlaps", self.problems_unlisted);
            report.add(ProblemKind::Gap, session, None, what);
        }
        self.check_counts(session, report);
    }

    fn check_counts(&self, session: &Session, report: &mut VerifyReport) {
        let segments = self.segments.iter();
        let segment_bytes = segments.clone().map(|s| s.encoded_bytes).sum();
        let segment_raw_bytes: u64 = segments.clone().map(|s| s.raw_bytes).sum();
        let raw_bytes = segment_raw_bytes + self.hot_bytes;
        let counts = [
            ("hot messages", session.hot_messages, self.hot_messages),
            ("hot bytes", session.hot_bytes, self.hot_bytes),
            ("segments", session.segments, segments.len() as u64),
            ("segment bytes", session.segment_bytes, segment_bytes),
            ("raw bytes", session.raw_bytes, raw_bytes),
        ];
        for (what, kept, counted) in counts {
            check_count(session, what, kept, counted, report);
        }
    }
}
