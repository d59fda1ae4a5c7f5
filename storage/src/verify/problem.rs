//! What a check can find wrong.

use std::fmt;

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// What kind of thing.
    pub kind: ProblemKind,
    /// The session, when it concerns one.
    pub session: Option<String>,
    /// The first sequence concerned, when it concerns messages.
    pub sequence: Option<u64>,
    /// What is wrong.
    pub what: String,
}

/// The kinds of problems, in the order in which a check looks for them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ProblemKind {
    /// Pages, rows or indexes of the file.
    Structure,
    /// A session of which not even the id can be read, or more of them.
    Listing,
    /// A segment that cannot be decoded, or is not what its row says.
    Segment,
    /// Messages that cannot be read, or have other bytes than were recorded.
    Message,
    /// Sequences that no row holds.
    Gap,
    /// Sequences that several rows hold.
    Overlap,
    /// An imported session that would not come back as its file was.
    Source,
    /// A sum that is not what it sums up. Every message is there.
    Counter,
    /// Rows of a session that is not there.
    Orphan,
}

impl ProblemKind {
    /// The kind as reports name it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Structure => "structure",
            Self::Listing => "listing",
            Self::Segment => "segment",
            Self::Message => "message",
            Self::Gap => "gap",
            Self::Overlap => "overlap",
            Self::Source => "source",
            Self::Counter => "counter",
            Self::Orphan => "orphan",
        }
    }
}

impl fmt::Display for ProblemKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
