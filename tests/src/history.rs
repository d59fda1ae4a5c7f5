//! What was acknowledged, and whether a store still has it.
//!
//! A worker writes a line to a file of its own, outside the store, for each answer it got. After the fault the test
//! compares that file with the store.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io::Write;
use std::ops::ControlFlow;
use std::path::Path;

use betcode_storage::{ReadRange, SessionFilter, SessionId, Store, StoreOptions};

use crate::lines;

/// What a worker got acknowledged, or was about to ask for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// `messages` messages of `writer`, from its number `n` on, stand at `sequence` and after it.
    Appended {
        /// The session.
        session: String,
        /// Sequence of the first.
        sequence: u64,
        /// Who wrote them.
        writer: u64,
        /// The writer's number of the first.
        n: u64,
        /// How many.
        messages: u64,
    },
    /// The session is about to be deleted: from here on it may be there or not.
    Deleting(String),
    /// The session was deleted.
    Deleted(String),
}

impl Event {
    /// One line, written at once: a kill cannot tear it.
    pub fn write(&self, to: &mut impl Write) {
        let line = match self {
            Self::Appended {
                session,
                sequence,
                writer,
                n,
                messages,
            } => format!("appended {session} {sequence} {writer} {n} {messages}\n"),
            Self::Deleting(session) => format!("deleting {session}\n"),
            Self::Deleted(session) => format!("deleted {session}\n"),
        };
        to.write_all(line.as_bytes()).unwrap();
    }

    fn parse(line: &str) -> Self {
        let words: Vec<_> = line.split(' ').collect();
        let number = |at: usize| words[at].parse::<u64>().unwrap();
        match words[0] {
            "appended" => Self::Appended {
                session: words[1].to_owned(),
                sequence: number(2),
                writer: number(3),
                n: number(4),
                messages: number(5),
            },
            "deleting" => Self::Deleting(words[1].to_owned()),
            "deleted" => Self::Deleted(words[1].to_owned()),
            other => panic!("unknown event {other:?}"),
        }
    }
}

/// What was acknowledged and is gone.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Lost {
    /// Messages that are not there.
    pub messages: u64,
    /// Deleted sessions that are there again.
    pub deletions: u64,
}

/// All that was acknowledged so far.
#[derive(Debug, Default)]
pub struct Acknowledged {
    /// Writer and number of what stands at each sequence, by session.
    places: BTreeMap<String, BTreeMap<u64, (u64, u64)>>,
    maybe_deleted: BTreeSet<String>,
    deleted: BTreeSet<String>,
}

impl Acknowledged {
    /// Adds the events of a file. A last line without its newline was not acknowledged.
    pub fn read(&mut self, file: &Path) {
        self.read_first(file, usize::MAX);
    }

    /// As [`Self::read`], of which the events behind the first `bytes` of the file are no promises.
    /// But a deletion that began may have happened.
    pub fn read_first(&mut self, file: &Path, bytes: usize) {
        let text = std::fs::read_to_string(file).unwrap_or_default();
        let (promised, later) = text.split_at(bytes.min(text.len()));
        let whole = |text: &str| text.rfind('\n').map_or(0, |end| end + 1);
        for line in promised[..whole(promised)].lines() {
            self.add(Event::parse(line));
        }
        let later = &[&promised[whole(promised)..], later].concat();
        for line in later[..whole(later)].lines() {
            if let Event::Deleting(session) | Event::Deleted(session) = Event::parse(line) {
                self.maybe_deleted.insert(session);
            }
        }
    }

    /// Takes in one event.
    pub fn add(&mut self, event: Event) {
        match event {
            Event::Appended {
                session,
                sequence,
                writer,
                n,
                messages,
            } => {
                let places = self.places.entry(session.clone()).or_default();
                for step in 0..messages {
                    let before = places.insert(sequence + step, (writer, n + step));
                    assert_eq!(
                        before,
                        None,
                        "sequence {} of {session} was given out twice",
                        sequence + step
                    );
                }
            }
            Event::Deleting(session) => {
                self.maybe_deleted.insert(session);
            }
            Event::Deleted(session) => {
                self.maybe_deleted.remove(&session);
                self.places.remove(&session);
                self.deleted.insert(session);
            }
        }
    }

    /// Messages acknowledged and not deleted since.
    #[must_use]
    pub fn messages(&self) -> u64 {
        self.places.values().map(|p| p.len() as u64).sum()
    }

    /// What was acknowledged and is not so in the store at `path`: nothing, unless durability was
    /// given away. Everything else is as strict as in [`Acknowledged::assert_kept`].
    #[must_use]
    pub fn lost(&mut self, path: &Path, options: StoreOptions) -> Lost {
        let store = Store::open(path, options).unwrap();
        assert_sound(&store);
        let found = contents(&store);
        for session in std::mem::take(&mut self.maybe_deleted) {
            if !found.contains_key(&session) {
                self.places.remove(&session);
            }
        }
        let mut lost = Lost::default();
        self.deleted.retain(|session| {
            let back = found.contains_key(session);
            lost.deletions += u64::from(back);
            !back
        });
        let nothing = Vec::new();
        for (session, places) in &self.places {
            let messages = found.get(session).unwrap_or(&nothing);
            for (&sequence, name) in places {
                match messages.get(sequence as usize - 1) {
                    Some(found) => {
                        assert_eq!(found, name, "message {sequence} of session {session}");
                    }
                    None => lost.messages += 1,
                }
            }
        }
        // Whatever else is there was on its way when the fault came: nobody was told. From now
        // on it is history as well.
        for (session, messages) in found {
            let places = self.places.entry(session).or_default();
            places.clear();
            places.extend((1..).zip(messages));
        }
        lost
    }

    /// Opens the store at `path` and asserts that all that was acknowledged is there, in order,
    /// byte for byte; that nothing is there that nobody sent; that what is there is sound.
    pub fn assert_kept(&mut self, path: &Path, options: StoreOptions) {
        assert_eq!(
            self.lost(path, options),
            Lost::default(),
            "what was acknowledged is gone"
        );
    }
}

/// Writer and number of every message, by session. Asserts that each is byte for byte what its
/// writer sent, that sequences are gapless from 1, and that each writer's messages come in its
/// order without a gap.
#[must_use]
pub fn contents(store: &Store) -> HashMap<String, Vec<(u64, u64)>> {
    let sessions = store.sessions(&SessionFilter::default()).unwrap().sessions;
    let mut all = HashMap::new();
    for session in sessions {
        let mut names = Vec::new();
        let mut next_of_writer: HashMap<u64, u64> = HashMap::new();
        for message in store.read(&session.id, ReadRange::all()).unwrap() {
            let message = message.unwrap();
            assert_eq!(message.sequence, names.len() as u64 + 1, "{}", session.id);
            let (writer, n) = lines::name_of(&message.payload).unwrap();
            assert!(
                message.payload == lines::payload(writer, n),
                "message {} of {} is not what writer {writer} sent as {n}",
                message.sequence,
                session.id
            );
            let expected = next_of_writer.entry(writer).or_default();
            assert_eq!(n, *expected, "order of writer {writer} in {}", session.id);
            *expected += 1;
            names.push((writer, n));
        }
        // Others may append meanwhile.
        assert!(names.len() as u64 >= session.messages, "{}", session.id);
        all.insert(session.id.to_string(), names);
    }
    all
}

/// Asserts that `verify` finds nothing wrong.
pub fn assert_sound(store: &Store) {
    let report = store.verify(&mut |_| ControlFlow::Continue(())).unwrap();
    assert!(report.ok(), "{:#?}", report.problems);
}

/// A session id.
#[must_use]
pub fn id(text: &str) -> SessionId {
    text.parse().unwrap()
}

/// Options of tests that do not concern the reserve or the limit of a session: no reserve is
/// held, which spares each test 16 MB, and a session may be as big as the store.
#[must_use]
pub fn options() -> StoreOptions {
    StoreOptions {
        reserve_bytes: 0,
        session_bytes_max: 8_000_000_000,
        ..StoreOptions::default()
    }
}
