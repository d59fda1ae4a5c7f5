//! Where a session's stored bytes are.

use std::collections::BTreeMap;

use crate::classify::classify;
use crate::error::{Held, Holder, Result, StoreError};
use crate::ids::SessionId;
use crate::limits::INSPECTION_TRIES_MAX;
use crate::reader::fetch::{PageReader, SessionSource};
use crate::segment::{self, Anatomy, DecodeLimits, KindBytes, Part, PartBytes};
use crate::session::Session;
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

/// A session's rows, as of one moment.
struct Listed {
    session: Session,
    rows: Vec<SegmentInfo>,
    bases: Vec<BaseShare>,
}

impl Store {
    /// Where a session's stored bytes are. Decodes all its segments, one at a time.
    ///
    /// # Errors
    /// [`StoreError::SessionNotFound`]; [`StoreError::Segment`] and [`StoreError::Damaged`] for
    /// damaged segments; [`StoreError::Busy`] when compaction replaces its segments again and again.
    pub fn inspect(&self, id: &SessionId) -> Result<Inspection> {
        for _ in 0..INSPECTION_TRIES_MAX {
            let listed = self.list_to_inspect(id)?;
            // No transaction is held while they are decoded, so they may be replaced meanwhile.
            if let Some(segments) = self.inspect_segments(&listed)? {
                return Ok(Inspection {
                    session: listed.session.id,
                    segments,
                    hot_messages: listed.session.hot_messages,
                    hot_bytes: listed.session.hot_bytes,
                    bases: listed.bases,
                });
            }
        }
        Err(StoreError::Busy {
            path: self.path().to_owned(),
            what: Held::Session,
            holder: Holder::Compaction,
            waited_ms: 0,
        })
    }

    /// What there is to inspect, as of one moment.
    fn list_to_inspect(&self, id: &SessionId) -> Result<Listed> {
        let connection = self.inner.readers.get()?;
        let db = &self.inner.db;
        let snapshot = db.context("begin to read", connection.unchecked_transaction())?;
        let session = db.context(
            "find the session",
            self.inner.readers.ids.find(&snapshot, id),
        );
        let session = session
            .map_err(|error| error.in_session(id))?
            .ok_or_else(|| StoreError::not_found(id))?;
        let rows = db.context(
            "list the segments",
            sql::segments::list(&snapshot, session.key),
        );
        let rows = rows.map_err(|error| error.in_session(id))?;
        let mut raw_bytes: BTreeMap<u64, u64> = BTreeMap::new();
        for info in &rows {
            if let Some(base_id) = info.base_id {
                *raw_bytes.entry(base_id).or_default() += info.raw_bytes;
            }
        }
        let mut bases = Vec::with_capacity(raw_bytes.len());
        for (base_id, own_bytes) in raw_bytes {
            let used = db.context("measure a base", sql::bases::use_of(&snapshot, base_id))?;
            let share = u128::from(used.stored_bytes) * u128::from(own_bytes);
            bases.push(BaseShare {
                base_id,
                stored_bytes: used.stored_bytes,
                // At most `stored_bytes`: its own segments are among all.
                apportioned_bytes: share
                    .checked_div(u128::from(used.segments_raw_bytes))
                    .unwrap_or(0) as u64,
            });
        }
        Ok(Listed {
            session,
            rows,
            bases,
        })
    }

    /// Takes the segments apart; `None` when one of them has been replaced since they were listed.
    fn inspect_segments(&self, listed: &Listed) -> Result<Option<Vec<InspectedSegment>>> {
        let (id, key) = (&listed.session.id, listed.session.key);
        let db = &self.inner.db;
        let mut reader = PageReader::default();
        let mut segments = Vec::with_capacity(listed.rows.len());
        for info in &listed.rows {
            let connection = self.inner.readers.get()?;
            let source = SessionSource {
                db,
                connection: &connection,
                key,
                id,
            };
            let stored = source.stored_if(info, &mut reader)?;
            drop(connection);
            let Some(stored) = stored else {
                return Ok(None);
            };
            let (limits, base) = (DecodeLimits::default(), stored.base.as_deref());
            let named = |source| StoreError::of_segment(id, info.first_sequence, source);
            let mut kind_of = |line: &[u8]| classify(line).message_type;
            let encoded = &stored.encoded;
            segments.push(InspectedSegment {
                info: *info,
                anatomy: segment::anatomy(encoded, &limits, base).map_err(named)?,
                types: segment::by_kind(encoded, &limits, base, &mut kind_of).map_err(named)?,
            });
        }
        Ok(Some(segments))
    }
}
