//! The store against the plainest model of it, a list of messages per session: whatever is asked
//! in whatever order, both answer the same.

// A failed unwrap is a failed test, in helpers as well.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use betcode_storage::capacity::retention::RetentionPolicy;
use betcode_storage::{
    Batch, CompactionPolicy, CompactionRequest, ErrorKind, ReadRange, SessionFilter, Store,
    StoreError, Tier, restore,
};
use betcode_test_support::noise;
use betcode_tests::history::{assert_sound, id, options};
use bytes::Bytes;
use proptest::prelude::*;

const SESSIONS: [&str; 3] = ["a", "b", "c"];

#[derive(Debug, Clone)]
enum Step {
    Append(usize, Vec<Bytes>),
    /// An append that says where: at `back` messages before the end, resending what is there and
    /// going on with new ones, and perhaps with one byte changed.
    Resend {
        session: usize,
        back: u64,
        more: Vec<Bytes>,
        changed: bool,
    },
    AppendAhead(usize, u64),
    Compact(Option<usize>, Tier),
    /// A compaction stopped after so many steps.
    CompactSome(u64),
    Delete(usize),
    Rename(usize, String),
    Reopen,
    Read(usize, u64, u64),
    ReadLast(usize, u64),
    BackupAndRestore,
    /// Removes a session after it was copied into an archive of its own.
    Archive(usize),
}

fn payload() -> impl Strategy<Value = Bytes> {
    prop_oneof![
        4 => "\\{\"type\":\"(user|assistant|result)\",\"text\":\"[a-z ]{0,300}\"\\}".prop_map(Bytes::from),
        2 => prop::collection::vec(any::<u8>(), 0..200).prop_map(Bytes::from),
        // Alone they make segments with tails of every size, of fewer messages than the tail has pieces.
        1 => (1_usize..5000, any::<u64>()).prop_map(|(n, seed)| Bytes::from(noise(seed, n))),
        1 => Just(Bytes::new()),
        1 => (1_usize..20_000, any::<u8>()).prop_map(|(n, c)| Bytes::from(vec![c; n])),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let session = 0..SESSIONS.len();
    let payloads = || prop::collection::vec(payload(), 0..30);
    let tier = prop_oneof![Just(Tier::Quick), Just(Tier::Deep)];
    prop_oneof![
        8 => (session.clone(), payloads()).prop_map(|(s, p)| Step::Append(s, p)),
        3 => (session.clone(), 0_u64..40, payloads(), any::<bool>()).prop_map(
            |(session, back, more, changed)| Step::Resend { session, back, more, changed }),
        1 => (session.clone(), 1_u64..5).prop_map(|(s, n)| Step::AppendAhead(s, n)),
        4 => (prop::option::of(session.clone()), tier).prop_map(|(s, t)| Step::Compact(s, t)),
        1 => (0_u64..4).prop_map(Step::CompactSome),
        1 => session.clone().prop_map(Step::Delete),
        1 => (session.clone(), "[a-z]{0,9}").prop_map(|(s, n)| Step::Rename(s, n)),
        2 => Just(Step::Reopen),
        4 => (session.clone(), 0_u64..200, 0_u64..200).prop_map(|(s, f, t)| Step::Read(s, f, t)),
        2 => (session, 0_u64..50).prop_map(|(s, n)| Step::ReadLast(s, n)),
        1 => Just(Step::BackupAndRestore),
        1 => (0..SESSIONS.len()).prop_map(Step::Archive),
    ]
}

#[derive(Default, Clone)]
struct Modelled {
    name: String,
    messages: Vec<Bytes>,
}

struct Pair {
    folder: PathBuf,
    db: PathBuf,
    copies: u32,
    store: Option<Store>,
    model: BTreeMap<&'static str, Modelled>,
}

/// Segments of a few messages, so that short histories have many.
fn request(session: Option<&str>, tier: Tier) -> CompactionRequest {
    let mut policy = CompactionPolicy {
        quick_segment_bytes_max: 2000,
        deep_segment_bytes_max: 9000,
        segment_messages_max: 25,
        ..CompactionPolicy::default()
    };
    policy.deep.level = 3;
    CompactionRequest {
        session: session.map(id),
        tier,
        policy,
        ..CompactionRequest::manual()
    }
}

impl Pair {
    fn new(folder: &Path) -> Self {
        let db = folder.join("history.db");
        Self {
            folder: folder.to_owned(),
            store: Some(Store::open(&db, options()).unwrap()),
            db,
            copies: 0,
            model: BTreeMap::new(),
        }
    }

    fn store(&self) -> &Store {
        self.store.as_ref().unwrap()
    }

    fn messages(&self, session: &str) -> &[Bytes] {
        self.model.get(session).map_or(&[], |m| &m.messages)
    }

    fn take(&mut self, step: Step) {
        match step {
            Step::Append(session, payloads) => self.append(SESSIONS[session], payloads),
            Step::Resend {
                session,
                back,
                more,
                changed,
            } => self.resend(SESSIONS[session], back, more, changed),
            Step::AppendAhead(session, by) => {
                let session = SESSIONS[session];
                let next = self.messages(session).len() as u64 + 1;
                let batch = Batch {
                    expected_sequence: Some(next + by),
                    ..Batch::new(id(session), vec![Bytes::from_static(b"ahead")])
                };
                let refused = self.store().append(batch).unwrap_err();
                assert_eq!(refused.kind(), ErrorKind::Conflict);
            }
            Step::Compact(session, tier) => self.compact(session.map(|s| SESSIONS[s]), tier),
            Step::CompactSome(steps) => {
                let mut left = steps;
                self.store()
                    .compact(&request(None, Tier::Quick), &mut |_| {
                        left = left.saturating_sub(1);
                        if left == 0 {
                            ControlFlow::Break(())
                        } else {
                            ControlFlow::Continue(())
                        }
                    })
                    .unwrap();
            }
            Step::Delete(session) => {
                let session = SESSIONS[session];
                let was_there = self.model.remove(session).is_some();
                assert_eq!(self.store().delete(&id(session)).unwrap(), was_there);
            }
            Step::Rename(session, name) => self.rename(SESSIONS[session], name),
            Step::Reopen => {
                self.store.take().unwrap().close().unwrap();
                self.store = Some(Store::open(&self.db, options()).unwrap());
            }
            Step::Read(session, from, to) => {
                let range = ReadRange {
                    from,
                    to: Some(to),
                    last: None,
                };
                let session = SESSIONS[session];
                let all = self.messages(session);
                let from = (from.max(1) as usize - 1).min(all.len());
                let to = (to as usize).clamp(from, all.len());
                self.assert_reads(session, range, from, &all[from..to]);
            }
            Step::ReadLast(session, count) => {
                let session = SESSIONS[session];
                let all = self.messages(session);
                let from = all.len().saturating_sub(count as usize);
                self.assert_reads(session, ReadRange::last(count), from, &all[from..]);
            }
            Step::BackupAndRestore => self.backup_and_restore(),
            Step::Archive(session) => self.archive(SESSIONS[session]),
        }
    }

    fn append(&mut self, session: &'static str, payloads: Vec<Bytes>) {
        let before = self.messages(session).len() as u64;
        let answer = self
            .store()
            .append(Batch::new(id(session), payloads.clone()))
            .unwrap();
        assert_eq!(answer.first_sequence, before + 1);
        assert_eq!(answer.last_sequence, before + payloads.len() as u64);
        assert_eq!(answer.duplicates, 0);
        let known = self.model.entry(session).or_default();
        known.messages.extend(payloads);
    }

    fn rename(&mut self, session: &'static str, name: String) {
        let renamed = self.store().rename(&id(session), &name);
        match self.model.get_mut(session) {
            Some(known) => {
                renamed.unwrap();
                known.name = name;
            }
            None => assert_eq!(renamed.unwrap_err().kind(), ErrorKind::NotFound),
        }
    }

    fn resend(&mut self, session: &'static str, back: u64, more: Vec<Bytes>, changed: bool) {
        let all = self.messages(session);
        let back = (back as usize).min(all.len());
        let expected = all.len() - back;
        let mut payloads = all[expected..].to_vec();
        let changed = changed && back > 0;
        if changed {
            let mut other = payloads[back / 2].to_vec();
            other.push(b'!');
            payloads[back / 2] = Bytes::from(other);
        }
        payloads.extend(more.iter().cloned());
        let batch = Batch {
            expected_sequence: Some(expected as u64 + 1),
            ..Batch::new(id(session), payloads.clone())
        };
        let answer = self.store().append(batch);
        if changed {
            let refused = answer.unwrap_err();
            let StoreError::SequenceConflict { sequence, .. } = refused else {
                panic!("{refused:?}");
            };
            assert_eq!(sequence, (expected + back / 2) as u64 + 1);
            return;
        }
        let answer = answer.unwrap();
        assert_eq!(answer.first_sequence, expected as u64 + 1);
        assert_eq!(answer.last_sequence, (expected + payloads.len()) as u64);
        assert_eq!(answer.duplicates, back as u64);
        self.model.entry(session).or_default().messages.extend(more);
    }

    fn compact(&mut self, session: Option<&'static str>, tier: Tier) {
        let outcome = self
            .store()
            .compact(&request(session, tier), &mut |_| ControlFlow::Continue(()));
        match (session, outcome) {
            (Some(session), Err(refused)) => {
                assert!(!self.model.contains_key(session), "{refused}");
                assert_eq!(refused.kind(), ErrorKind::NotFound);
            }
            (_, outcome) => {
                let outcome = outcome.unwrap();
                assert_eq!((outcome.failures.len(), outcome.cancelled), (0, false));
                if session.is_none() {
                    assert_eq!(self.store().totals().unwrap().hot_messages, 0);
                    assert_eq!(self.store().space().unwrap().free_bytes, 0);
                }
            }
        }
    }

    fn backup_and_restore(&mut self) {
        self.copies += 1;
        let copy = self.folder.join(format!("copy-{}.db", self.copies));
        let store = self.store.take().unwrap();
        let report = store
            .backup(&copy, &mut |_| ControlFlow::Continue(()))
            .unwrap();
        let messages: usize = self.model.values().map(|m| m.messages.len()).sum();
        assert_eq!(report.messages, messages as u64);
        store.close().unwrap();
        restore(&copy, &self.db, true, &mut |_| ControlFlow::Continue(())).unwrap();
        self.store = Some(Store::open(&self.db, options()).unwrap());
    }

    fn archive(&mut self, session: &'static str) {
        let Some(known) = self.model.remove(session) else {
            return;
        };
        self.copies += 1;
        let path = self.folder.join(format!("archive-{}.db", self.copies));
        let policy = RetentionPolicy {
            sessions: vec![id(session)],
            ..RetentionPolicy::default()
        };
        let plan = self.store().plan_retention(&policy).unwrap();
        let go_on = &mut |_: &_| ControlFlow::Continue(());
        let outcome = self.store().retain(&plan, Some(&path), go_on).unwrap();
        assert_eq!(outcome.removed.len(), 1, "{outcome:?}");
        let archive = Self {
            folder: self.folder.clone(),
            store: Some(Store::open_read_only(&path, options()).unwrap()),
            db: path,
            copies: 0,
            model: BTreeMap::from([(session, known)]),
        };
        archive.assert_same();
    }

    fn assert_reads(&self, session: &str, range: ReadRange, from: usize, expected: &[Bytes]) {
        let read = self.store().read(&id(session), range);
        if !self.model.contains_key(session) {
            assert_eq!(read.unwrap_err().kind(), ErrorKind::NotFound);
            return;
        }
        let found: Vec<_> = read.unwrap().map(Result::unwrap).collect();
        let sequences: Vec<_> = found.iter().map(|m| m.sequence as usize).collect();
        let wanted: Vec<_> = (from + 1..from + 1 + expected.len()).collect();
        assert_eq!(sequences, wanted, "{session} {range:?}");
        assert!(
            found.iter().map(|m| &m.payload).eq(expected),
            "{session} {range:?}"
        );
    }

    fn assert_same(&self) {
        let listed = self.store().sessions(&SessionFilter::default()).unwrap();
        let mut ids: Vec<_> = listed.sessions.iter().map(|s| s.id.as_str()).collect();
        ids.sort_unstable();
        assert_eq!(ids, self.model.keys().copied().collect::<Vec<_>>());
        for session in &listed.sessions {
            let known = &self.model[session.id.as_str()];
            assert_eq!(session.meta.name, known.name);
            assert_eq!(session.messages, known.messages.len() as u64);
            self.assert_reads(session.id.as_str(), ReadRange::all(), 0, &known.messages);
        }
        let totals = self.store().totals().unwrap();
        let messages = self.model.values().flat_map(|m| &m.messages);
        let (count, bytes) = messages.fold((0, 0), |(n, b), m| (n + 1, b + m.len() as u64));
        assert_eq!((totals.messages, totals.raw_bytes), (count, bytes));
        assert_sound(self.store());
    }
}

proptest! {
    // `PROPTEST_CASES` asks for more. A failing case is shrunk and printed whole; nothing is
    // written into the source folder.
    #![proptest_config(ProptestConfig {
        cases: std::env::var("PROPTEST_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(24),
        failure_persistence: None,
        max_shrink_iters: 400,
        ..ProptestConfig::default()
    })]

    #[test]
    fn the_store_answers_as_a_list_of_messages_would(steps in prop::collection::vec(step(), 1..40)) {
        let folder = tempfile::tempdir().unwrap();
        let mut pair = Pair::new(folder.path());
        for step in steps {
            pair.take(step);
        }
        pair.assert_same();
    }
}
