use std::fs;
use std::ops::ControlFlow;

use betcode_storage::{
    Arrival, Batch, ImportMark, ReadRange, SessionId, SessionMeta, Store, StoreOptions,
};

use super::identity::Prefix;
use super::walk::path_bytes;
use super::{ImportOptions, ImportPlan, ImportSummary, ImportTarget, import};

/// Imports `path`, and does something once at the first moment at which it is known where to go on.
fn import_while(store: &Store, path: &std::path::Path, then: impl FnOnce()) -> ImportSummary {
    let mut then = Some(then);
    let plan = ImportPlan::of(&[path.to_owned()]).unwrap();
    let target = ImportTarget::of(store, None);
    let options = ImportOptions::default();
    let imported = import(store, target, plan, &options, &mut |_| {
        if let Some(then) = then.take() {
            then();
        }
        ControlFlow::Continue(())
    });
    imported.unwrap()
}

#[test]
fn an_import_continues_after_the_half_line_that_a_concurrent_one_recorded() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(&folder.path().join("h.db"), StoreOptions::default()).unwrap();
    let path = fs::canonicalize(folder.path()).unwrap().join("a.jsonl");
    fs::write(&path, "one\n").unwrap();
    import_while(&store, &path, || {});
    fs::write(&path, "one\ntwo\nthree\n").unwrap();
    let session = SessionId::new("a").unwrap();
    let taken = import_while(&store, &path, || {
        // Another import had seen less of the file.
        let mut prefix = Prefix::default();
        prefix.push(b"one\ntw");
        let batch = Batch {
            session: session.clone(),
            key: None,
            payloads: vec!["tw".into()],
            meta: SessionMeta::default(),
            expected_sequence: Some(2),
            arrival: Arrival::Historical,
            import: Some(ImportMark {
                source_path: path_bytes(&path),
                relative_path: b"a.jsonl".to_vec(),
                taken_bytes: prefix.bytes,
                taken_digest: prefix.digest(),
                unterminated: true,
                joins: Vec::new(),
            }),
        };
        store.append(batch).unwrap();
    });
    assert_eq!(taken.skipped, []);
    assert_eq!((taken.messages, taken.bytes, taken.resumed), (2, 8, 1));
    let messages = store.read(&session, ReadRange::all()).unwrap();
    let payloads: Vec<_> = messages.map(|message| message.unwrap().payload).collect();
    assert_eq!(payloads, ["one", "tw", "o", "three"]);
    assert_eq!(store.import_of(&session).unwrap().unwrap().mark.joins, [2]);
}
