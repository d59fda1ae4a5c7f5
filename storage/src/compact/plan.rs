//! Which messages become one segment: pure packing.

use std::iter::Peekable;
use std::vec;

use crate::growth::uncompacted_row_bytes;
use crate::ids::SessionId;
use crate::sql::segments::{SegmentInfo, Tier};

/// A piece of a session that a step packs as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unit {
    /// A hot message.
    Hot { sequence: u64, raw_bytes: u64 },
    /// A segment.
    Segment(SegmentInfo),
}

impl Unit {
    fn first(&self) -> u64 {
        match self {
            Self::Hot { sequence, .. } => *sequence,
            Self::Segment(info) => info.first_sequence,
        }
    }

    fn last(&self) -> u64 {
        match self {
            Self::Hot { sequence, .. } => *sequence,
            Self::Segment(info) => info.last_sequence,
        }
    }

    fn messages(&self) -> u64 {
        self.last() - self.first() + 1
    }

    fn raw_bytes(&self) -> u64 {
        match self {
            Self::Hot { raw_bytes, .. } => *raw_bytes,
            Self::Segment(info) => info.raw_bytes,
        }
    }

    fn stored_bytes(&self) -> u64 {
        match self {
            Self::Hot { raw_bytes, .. } => uncompacted_row_bytes(*raw_bytes),
            Self::Segment(info) => info.encoded_bytes,
        }
    }
}

/// Bounds of the packing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Packing {
    /// Tier of the segments to make.
    pub(super) tier: Tier,
    /// Raw bytes of one segment, unless it is a single message.
    pub(super) segment_bytes_max: u64,
    /// Messages of one segment.
    pub(super) segment_messages_max: u64,
    /// Leave the last hot messages until they fill a segment.
    pub(super) keep_remainder: bool,
}

/// One new segment: the messages it packs and the segments it replaces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlannedStep {
    /// The session.
    pub session: SessionId,
    /// Sequence of the first message.
    pub first_sequence: u64,
    /// Sequence of the last message.
    pub last_sequence: u64,
    /// Payload bytes.
    pub raw_bytes: u64,
    /// Bytes that the messages take now.
    pub stored_bytes: u64,
    /// Tier of the new segment.
    pub tier: Tier,
    /// Hot messages that it packs.
    pub hot_messages: u64,
    /// Segments that it replaces.
    pub replaces_segments: u64,
    /// It only writes a segment of this tier again with a newer base, so it may be left out.
    pub is_rewrite: bool,
}

impl PlannedStep {
    /// The step that writes a segment again.
    pub(super) fn rewrite(session: SessionId, info: &SegmentInfo) -> Self {
        Self {
            session,
            first_sequence: info.first_sequence,
            last_sequence: info.last_sequence,
            raw_bytes: info.raw_bytes,
            stored_bytes: info.encoded_bytes,
            tier: info.tier,
            hot_messages: 0,
            replaces_segments: 1,
            is_rewrite: true,
        }
    }

    /// Messages in it.
    #[must_use]
    pub fn messages(&self) -> u64 {
        self.last_sequence - self.first_sequence + 1
    }
}

/// Packs a session's segments and hot messages, in order, into steps. Hot messages are added as they
/// are read and not kept, because there may be millions.
///
/// The quick tier packs hot messages only. The deep tier also packs segments of the quick tier, and deep ones up to
/// half the size of a full segment: the last segment of a session that grows is written again until it is half
/// full, so each byte is rewritten a bounded number of times.
/// A step never spans a gap.
pub(super) struct Packer<'s> {
    session: &'s SessionId,
    packing: Packing,
    /// Those that are still to come, in order.
    segments: Peekable<vec::IntoIter<SegmentInfo>>,
    draft: Option<SegmentDraft>,
    ends_hot: bool,
    steps: Vec<PlannedStep>,
}

impl<'s> Packer<'s> {
    /// `segments` are in order.
    pub(super) fn new(
        session: &'s SessionId,
        packing: Packing,
        segments: Vec<SegmentInfo>,
    ) -> Self {
        Self {
            session,
            packing,
            segments: segments.into_iter().peekable(),
            draft: None,
            ends_hot: false,
            steps: Vec::new(),
        }
    }

    /// Adds the next hot message, and the segments before it.
    pub(super) fn hot(&mut self, sequence: u64, raw_bytes: u64) {
        while let Some(info) = self.segments.next_if(|s| s.first_sequence <= sequence) {
            self.add(&Unit::Segment(info));
        }
        self.add(&Unit::Hot {
            sequence,
            raw_bytes,
        });
    }

    /// Adds the remaining segments, and returns the steps.
    pub(super) fn finish(mut self) -> Vec<PlannedStep> {
        while let Some(info) = self.segments.next() {
            self.add(&Unit::Segment(info));
        }
        if !(self.packing.keep_remainder && self.ends_hot) {
            self.cut();
        }
        self.steps
    }

    fn add(&mut self, unit: &Unit) {
        self.ends_hot = matches!(unit, Unit::Hot { .. });
        if !is_packed(unit, &self.packing) {
            self.cut();
            return;
        }
        match &mut self.draft {
            Some(draft) if draft.has_room_for(unit, &self.packing) => draft.add(unit),
            _ => {
                self.cut();
                self.draft = Some(SegmentDraft::of(unit));
            }
        }
    }

    /// Ends the segment that is being filled.
    fn cut(&mut self) {
        let full = self.draft.take();
        let step = full.and_then(|draft| draft.step(self.session, self.packing.tier));
        self.steps.extend(step);
    }
}

/// Consecutive units that are to become one segment.
struct SegmentDraft {
    first: u64,
    last: u64,
    raw_bytes: u64,
    stored_bytes: u64,
    hot_messages: u64,
    segments: u64,
    /// The lowest tier among its segments.
    tier_min: Tier,
}

impl SegmentDraft {
    fn of(unit: &Unit) -> Self {
        let mut draft = Self {
            first: unit.first(),
            last: unit.last(),
            raw_bytes: 0,
            stored_bytes: 0,
            hot_messages: 0,
            segments: 0,
            tier_min: Tier::Deep,
        };
        draft.add(unit);
        draft
    }

    fn has_room_for(&self, unit: &Unit, packing: &Packing) -> bool {
        let messages = self.last - self.first + 1 + unit.messages();
        self.last + 1 == unit.first()
            && self.raw_bytes + unit.raw_bytes() <= packing.segment_bytes_max
            && messages <= packing.segment_messages_max
    }

    fn add(&mut self, unit: &Unit) {
        self.last = unit.last();
        self.raw_bytes += unit.raw_bytes();
        self.stored_bytes += unit.stored_bytes();
        match unit {
            Unit::Hot { .. } => self.hot_messages += 1,
            Unit::Segment(info) => {
                self.segments += 1;
                self.tier_min = self.tier_min.min(info.tier);
            }
        }
    }

    /// The step that makes a segment of it; none when it is one already.
    fn step(self, session: &SessionId, tier: Tier) -> Option<PlannedStep> {
        if self.hot_messages == 0 && self.segments == 1 && self.tier_min >= tier {
            return None;
        }
        Some(PlannedStep {
            session: session.clone(),
            first_sequence: self.first,
            last_sequence: self.last,
            raw_bytes: self.raw_bytes,
            stored_bytes: self.stored_bytes,
            tier,
            hot_messages: self.hot_messages,
            replaces_segments: self.segments,
            is_rewrite: false,
        })
    }
}

/// Whether a tier packs this unit into new segments.
fn is_packed(unit: &Unit, packing: &Packing) -> bool {
    match (unit, packing.tier) {
        (Unit::Hot { .. }, _) => true,
        (Unit::Segment(_), Tier::Quick) => false,
        (Unit::Segment(info), Tier::Deep) => {
            info.tier < Tier::Deep || info.raw_bytes <= packing.segment_bytes_max / 2
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn id() -> SessionId {
        "s".parse().unwrap()
    }

    fn pack(session: &SessionId, units: &[Unit], packing: &Packing) -> Vec<PlannedStep> {
        let segments = units.iter().filter_map(|unit| match unit {
            Unit::Segment(info) => Some(*info),
            Unit::Hot { .. } => None,
        });
        let mut packer = Packer::new(session, *packing, segments.collect());
        for unit in units {
            if let Unit::Hot {
                sequence,
                raw_bytes,
            } = unit
            {
                packer.hot(*sequence, *raw_bytes);
            }
        }
        packer.finish()
    }

    fn packing(tier: Tier) -> Packing {
        Packing {
            tier,
            segment_bytes_max: 100,
            segment_messages_max: 50,
            keep_remainder: false,
        }
    }

    fn segment(first: u64, last: u64, raw_bytes: u64, tier: Tier) -> Unit {
        Unit::Segment(SegmentInfo {
            first_sequence: first,
            last_sequence: last,
            raw_bytes,
            encoded_bytes: raw_bytes / 10,
            tier,
            created_ms: 0,
            base_id: None,
        })
    }

    fn hot(sequences: std::ops::RangeInclusive<u64>, raw_bytes: u64) -> Vec<Unit> {
        sequences
            .map(|sequence| Unit::Hot {
                sequence,
                raw_bytes,
            })
            .collect()
    }

    fn ranges(steps: &[PlannedStep]) -> Vec<(u64, u64)> {
        steps
            .iter()
            .map(|s| (s.first_sequence, s.last_sequence))
            .collect()
    }

    #[test]
    fn hot_messages_are_cut_at_the_segment_size() {
        assert_eq!(
            ranges(&pack(&id(), &hot(1..=25, 10), &packing(Tier::Quick))),
            [(1, 10), (11, 20), (21, 25)]
        );
    }

    #[test]
    fn a_message_bigger_than_a_segment_gets_one_of_its_own() {
        let mut units = hot(1..=1, 10);
        units.extend(hot(2..=2, 5000));
        units.extend(hot(3..=3, 10));
        assert_eq!(
            ranges(&pack(&id(), &units, &packing(Tier::Quick))),
            [(1, 1), (2, 2), (3, 3)]
        );
    }

    #[test]
    fn a_session_in_use_keeps_what_does_not_fill_a_segment() {
        let packing = Packing {
            keep_remainder: true,
            ..packing(Tier::Quick)
        };
        assert_eq!(
            ranges(&pack(&id(), &hot(1..=25, 10), &packing)),
            [(1, 10), (11, 20)]
        );
        assert_eq!(pack(&id(), &hot(1..=5, 10), &packing), []);
    }

    #[test]
    fn the_deep_tier_merges_quick_segments_and_hot_messages() {
        let mut units = vec![
            segment(1, 3, 40, Tier::Quick),
            segment(4, 6, 40, Tier::Quick),
        ];
        units.extend(hot(7..=9, 10));
        let steps = pack(&id(), &units, &packing(Tier::Deep));
        assert_eq!(ranges(&steps), [(1, 8), (9, 9)]);
        assert_eq!((steps[0].replaces_segments, steps[0].hot_messages), (2, 2));
    }

    #[test]
    fn a_deep_segment_is_written_again_only_to_take_more_in() {
        let full = segment(1, 3, 60, Tier::Deep);
        let small = segment(4, 6, 40, Tier::Deep);
        assert_eq!(pack(&id(), &[full, small], &packing(Tier::Deep)), []);
        let with_more = [full, small, segment(7, 8, 30, Tier::Quick)];
        assert_eq!(
            ranges(&pack(&id(), &with_more, &packing(Tier::Deep))),
            [(4, 8)]
        );
    }

    #[test]
    fn the_quick_tier_leaves_segments_alone() {
        let mut units = hot(1..=2, 10);
        units.push(segment(3, 4, 10, Tier::Quick));
        units.extend(hot(5..=6, 10));
        assert_eq!(
            ranges(&pack(&id(), &units, &packing(Tier::Quick))),
            [(1, 2), (5, 6)]
        );
    }

    #[test]
    fn segments_stand_among_the_messages_by_their_sequence() {
        let mut units = vec![segment(1, 2, 30, Tier::Quick)];
        units.extend(hot(3..=4, 10));
        units.push(segment(5, 6, 30, Tier::Quick));
        units.extend(hot(7..=7, 10));
        units.push(segment(8, 9, 60, Tier::Quick));
        let steps = pack(&id(), &units, &packing(Tier::Deep));
        assert_eq!(ranges(&steps), [(1, 7), (8, 9)]);
        assert_eq!((steps[0].replaces_segments, steps[0].hot_messages), (2, 3));
        assert_eq!(steps[0].raw_bytes, 90);
        // A session that ends with a segment has no hot remainder.
        let packing = Packing {
            keep_remainder: true,
            ..packing(Tier::Deep)
        };
        assert_eq!(ranges(&pack(&id(), &units, &packing)), [(1, 7), (8, 9)]);
    }

    #[test]
    fn a_step_never_spans_a_gap() {
        let mut units = hot(1..=2, 10);
        units.extend(hot(5..=6, 10));
        assert_eq!(
            ranges(&pack(&id(), &units, &packing(Tier::Deep))),
            [(1, 2), (5, 6)]
        );
    }

    proptest! {
        #[test]
        fn steps_take_each_hot_message_once_within_the_bounds(
            sizes in prop::collection::vec(0_u64..300, 0..200),
            deep in any::<bool>(),
        ) {
            let units: Vec<_> = sizes.iter().enumerate()
                .map(|(i, &raw_bytes)| Unit::Hot { sequence: i as u64 + 1, raw_bytes })
                .collect();
            let packing = packing(if deep { Tier::Deep } else { Tier::Quick });
            let steps = pack(&id(), &units, &packing);
            let mut next = 1;
            for step in &steps {
                prop_assert_eq!(step.first_sequence, next);
                prop_assert!(step.messages() == 1 || step.raw_bytes <= packing.segment_bytes_max);
                prop_assert!(step.messages() <= packing.segment_messages_max);
                next = step.last_sequence + 1;
            }
            prop_assert_eq!(next, sizes.len() as u64 + 1);
        }
    }
}
