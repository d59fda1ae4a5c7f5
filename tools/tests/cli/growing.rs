//! The importer's main promise, on random files: whatever they hold, and however they grow
//! between imports, they come back byte for byte.

use std::fs;
use std::ops::ControlFlow;
use std::path::PathBuf;

use betcode_db::export::{ExportOptions, export};
use betcode_db::import::{ImportOptions, ImportPlan, ImportTarget, import};
use betcode_storage::{CompactionRequest, Durability, Store, StoreOptions, Tier};
use proptest::prelude::*;

/// What happens between two growths of the file.
#[derive(Debug, Clone, Copy)]
enum Between {
    Import,
    ImportAndCompact(Tier),
    Reopen,
}

fn between() -> impl Strategy<Value = Between> {
    prop_oneof![
        Just(Between::Import),
        Just(Between::ImportAndCompact(Tier::Quick)),
        Just(Between::ImportAndCompact(Tier::Deep)),
        Just(Between::Reopen),
    ]
}

fn piece() -> impl Strategy<Value = Vec<u8>> {
    let byte = prop_oneof![3 => Just(b'\n'), 1 => Just(b'\r'), 1 => Just(0), 6 => any::<u8>()];
    proptest::collection::vec(byte, 0..40)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    #[test]
    fn a_file_imported_as_it_grows_comes_back_byte_for_byte(
        growth in proptest::collection::vec((piece(), between()), 1..7),
        batches in prop_oneof![Just(usize::MAX), Just(3_usize)],
    ) {
        let folder = tempfile::tempdir().unwrap();
        let (db, src, out) =
            (folder.path().join("h.db"), folder.path().join("src"), folder.path().join("out"));
        let options = || StoreOptions {
            durability: Durability::Normal,
            reserve_bytes: 0,
            ..StoreOptions::default()
        };
        fs::create_dir(&src).unwrap();
        let file = src.join("f.jsonl");
        let mut store = Store::open(&db, options()).unwrap();
        let mut bytes = Vec::new();
        for (more, then) in &growth {
            bytes.extend_from_slice(more);
            fs::write(&file, &bytes).unwrap();
            run(&store, &src, batches);
            match then {
                Between::Import => {}
                Between::ImportAndCompact(tier) => {
                    let request = CompactionRequest { tier: *tier, ..CompactionRequest::manual() };
                    store.compact(&request, &mut |_| ControlFlow::Continue(())).unwrap();
                }
                Between::Reopen => {
                    store.close().unwrap();
                    store = Store::open(&db, options()).unwrap();
                }
            }
        }
        prop_assert_eq!(run(&store, &src, usize::MAX), 0, "everything was imported");
        let exported = export(&store, &out, &ExportOptions::default(), &mut |_| {
            ControlFlow::Continue(())
        }).unwrap();
        prop_assert_eq!(exported.sessions, 1);
        prop_assert_eq!(fs::read(out.join("f.jsonl")).unwrap(), bytes);
        let verified = store.verify(&mut |_| ControlFlow::Continue(())).unwrap();
        prop_assert!(verified.ok(), "{:?}", verified.problems);
    }
}

/// Imports, stopping after `batches` looks at progress; returns the messages imported.
fn run(store: &Store, src: &std::path::Path, batches: usize) -> u64 {
    let plan = ImportPlan::of(&[PathBuf::from(src)]).unwrap();
    let mut left = batches;
    let summary = import(
        store,
        ImportTarget::File(store),
        plan,
        &ImportOptions::default(),
        &mut |_| {
            left = left.saturating_sub(1);
            if left == 0 {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        },
    );
    let summary = summary.unwrap();
    assert!(summary.skipped.is_empty(), "{:?}", summary.skipped);
    summary.messages
}
