use super::*;
use crate::{Batch, CompactionRequest, Store, StoreOptions};

/// Lines of which two sessions share enough for a base.
fn lines(session: &str) -> Vec<Bytes> {
    let words = |line: u64| {
        let word = |at: u64| xxhash_rust::xxh3::xxh3_64(&(line * 1000 + at).to_le_bytes());
        (0..100)
            .map(|at| format!("{:x}", word(at)))
            .collect::<Vec<_>>()
            .join(" ")
    };
    let line = |line| format!(r#"{{"session":"{session}","text":"{}"}}"#, words(line)).into();
    (0..50).map(line).collect()
}

#[test]
fn a_reader_goes_on_to_another_session_and_keeps_the_base_that_they_share() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(&folder.path().join("h.db"), StoreOptions::default()).unwrap();
    let ids = ["a", "b"].map(|id| SessionId::new(id).unwrap());
    for id in &ids {
        let mut batch = Batch::new(id.clone(), lines(id.as_str()));
        batch.meta.working_directory = "/p".to_owned();
        store.append(batch).unwrap();
    }
    let observe = &mut |_: &_| std::ops::ControlFlow::Continue(());
    store
        .compact(&CompactionRequest::manual(), observe)
        .unwrap();

    let connection = store.inner.readers.get().unwrap();
    let mut reader = PageReader::default();
    let mut read = |id: &SessionId| {
        let key = store.session(id).unwrap().key;
        let source = SessionSource {
            db: &store.inner.db,
            connection: &connection,
            key,
            id,
        };
        let page = source.page(1, 50, &mut reader).unwrap();
        let payloads: Vec<Bytes> = page.into_iter().map(|message| message.payload).collect();
        assert!(payloads == lines(id.as_str()), "session {id}");
        reader.base.clone().unwrap()
    };
    let [of_a, of_b] = ids.each_ref().map(&mut read);
    assert!(Arc::ptr_eq(&of_a, &of_b));
    let of_a_again = read(&ids[0]);
    assert!(Arc::ptr_eq(&of_a, &of_a_again));
}
