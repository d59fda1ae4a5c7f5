//! Where a session's stored bytes are.

use std::collections::BTreeMap;

use crate::classify::classify;
use crate::error::{Result, StoreError};
use crate::ids::SessionId;
use crate::reader::fetch;
use crate::segment::{self, Anatomy, DecodeLimits, KindBytes, Part, PartBytes};
use crate::sql;
use crate::sql::segments::SegmentInfo;
use crate::store::Store;

/// Where a session's stored bytes are: in its segments, in rows of their own, and its share of
/// what it shares with its project.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inspection {
    /// The session.
    pub session: SessionId,
    /// Its segments, in order.
    pub segments: Vec<InspectedSegment>,
    /// Messages that are rows of their own.
    pub hot_messages: u64,
    /// Their payload bytes, which are stored as they are.
    pub hot_bytes: u64,
    /// Bases that its segments need.
    pub bases: Vec<BaseShare>,
}

/// A segment and where its bytes are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InspectedSegment {
    /// Its row.
    pub info: SegmentInfo,
    /// Its parts.
    pub anatomy: Anatomy,
    /// Its messages by type.
    pub types: BTreeMap<String, KindBytes>,
}

/// A base and how much of it counts as a session's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BaseShare {
    /// Its id.
    pub base_id: u64,
    /// Bytes that it takes in the database.
    pub stored_bytes: u64,
    /// Share of these, by the payload bytes of all segments that need it. Apportioned.
    pub apportioned_bytes: u64,
}

impl Inspection {
    /// The parts of all segments together.
    #[must_use]
    pub fn parts(&self) -> BTreeMap<Part, PartBytes> {
        let mut all: BTreeMap<Part, PartBytes> = BTreeMap::new();
        for (part, bytes) in self.segments.iter().flat_map(|s| &s.anatomy.parts) {
            all.entry(*part).or_default().add(bytes);
        }
        all
    }

    /// The messages of all segments by type. Hot messages are not among them.
    #[must_use]
    pub fn types(&self) -> BTreeMap<String, KindBytes> {
        let mut all: BTreeMap<String, KindBytes> = BTreeMap::new();
        for (name, bytes) in self.segments.iter().flat_map(|s| &s.types) {
            let sum = all.entry(name.clone()).or_default();
            sum.messages += bytes.messages;
            sum.raw_bytes += bytes.raw_bytes;
            sum.apportioned_bytes += bytes.apportioned_bytes;
        }
        all
    }
}

impl Store {
    /// Where a session's stored bytes are. Decodes all its segments, one at a time.
    ///
    /// # Errors
    /// [`StoreError::SessionNotFound`]; [`StoreError::Segment`] and [`StoreError::Damaged`] for
    /// damaged segments.
    pub fn inspect(&self, id: &SessionId) -> Result<Inspection> {
        let connection = self.inner.readers.get()?;
        let db = &self.inner.db;
        // One snapshot: compaction moves messages between rows and segments meanwhile, and the session
        // may be deleted.
        let snapshot = db.named("begin to read", connection.unchecked_transaction())?;
        let session = db.named(
            "find the session",
            self.inner.readers.ids.find(&snapshot, id),
        )?;
        let session = session.ok_or_else(|| StoreError::SessionNotFound { id: id.to_string() })?;
        let rows = db.named(
            "list the segments",
            sql::segments::list(&snapshot, session.key),
        )?;
        let mut segments: Vec<InspectedSegment> = Vec::with_capacity(rows.len());
        let mut base = None;
        for info in rows {
            if let Some(base_id) = info.base_id {
                base = Some(fetch::base_of(db, &snapshot, base_id, base.as_ref())?);
            }
            let encoded = db.named(
                "read a segment",
                sql::segments::encoded(&snapshot, session.key, info.first_sequence),
            )?;
            let (limits, base) = (DecodeLimits::default(), base.as_deref());
            let encoded = encoded.unwrap_or_default();
            let named = |source| StoreError::Segment {
                id: id.to_string(),
                first_sequence: info.first_sequence,
                source,
            };
            let mut kind_of = |line: &[u8]| classify(line).message_type;
            segments.push(InspectedSegment {
                info,
                anatomy: segment::anatomy(&encoded, &limits, base).map_err(named)?,
                types: segment::by_kind(&encoded, &limits, base, &mut kind_of).map_err(named)?,
            });
        }
        let mut raw_bytes: BTreeMap<u64, u64> = BTreeMap::new();
        for info in segments.iter().map(|s| &s.info) {
            if let Some(base_id) = info.base_id {
                *raw_bytes.entry(base_id).or_default() += info.raw_bytes;
            }
        }
        let mut bases = Vec::with_capacity(raw_bytes.len());
        for (base_id, own_bytes) in raw_bytes {
            let (stored_bytes, all_bytes) =
                db.named("measure a base", sql::bases::use_of(&snapshot, base_id))?;
            let share = u128::from(stored_bytes) * u128::from(own_bytes);
            bases.push(BaseShare {
                base_id,
                stored_bytes,
                // At most `stored_bytes`: its own segments are among all.
                apportioned_bytes: share.checked_div(u128::from(all_bytes)).unwrap_or(0) as u64,
            });
        }
        Ok(Inspection {
            session: session.id,
            segments,
            hot_messages: session.hot_messages,
            hot_bytes: session.hot_bytes,
            bases,
        })
    }
}
