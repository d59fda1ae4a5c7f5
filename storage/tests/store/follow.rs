//! Replays that go on with what is appended later.

use std::ops::ControlFlow;

use betcode_storage::{CompactionRequest, ErrorKind, Replay, Store};

use super::{batch, id, open, set_in_session_row, small_reserve};

/// Payloads of the next page; empty if there is nothing more for now.
fn next(replay: &mut Replay) -> Vec<String> {
    let page = replay.next_page().unwrap().unwrap_or_default();
    page.iter()
        .map(|message| String::from_utf8_lossy(&message.payload).into_owned())
        .collect()
}

#[test]
fn a_follower_reads_what_was_appended_before_and_after_by_whomever() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder);
    store.append(batch("s", &[b"a", b"b"])).unwrap();
    let mut replay = store.follow(&id("s"), 2).unwrap();
    assert_eq!(next(&mut replay), ["b"]);
    assert_eq!(next(&mut replay), [""; 0]);

    store.append(batch("s", &[b"c"])).unwrap();
    store.append(batch("other", &[b"x"])).unwrap();
    let another = Store::open(store.path(), small_reserve()).unwrap();
    another.append(batch("s", &[b"d"])).unwrap();
    store
        .compact(&CompactionRequest::manual(), &mut |_| {
            ControlFlow::Continue(())
        })
        .unwrap();
    another.append(batch("s", &[b"e"])).unwrap();
    assert_eq!(
        [next(&mut replay), next(&mut replay)].concat(),
        ["c", "d", "e"]
    );
    assert_eq!((replay.next_page().unwrap(), replay.position()), (None, 6));

    // As an iterator it goes on as well.
    store.append(batch("s", &[b"f"])).unwrap();
    assert_eq!(replay.next().unwrap().unwrap().payload, "f");
    assert!(replay.next().is_none());
}

#[test]
fn a_follower_may_begin_after_the_last_message() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder);
    let missing = store.follow(&id("s"), 1).unwrap_err();
    assert_eq!(missing.kind(), ErrorKind::NotFound);
    store.append(batch("s", &[])).unwrap();
    let mut replay = store.follow(&id("s"), 3).unwrap();
    store.append(batch("s", &[b"a", b"b"])).unwrap();
    assert_eq!(next(&mut replay), [""; 0]);
    store.append(batch("s", &[b"c"])).unwrap();
    assert_eq!(next(&mut replay), ["c"]);
}

#[test]
fn a_follower_of_a_deleted_session_does_not_go_on_with_another_of_its_name() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder);
    store.append(batch("s", &[b"a"])).unwrap();
    let mut replay = store.follow(&id("s"), 1).unwrap();
    assert_eq!(next(&mut replay), ["a"]);
    store.delete(&id("s")).unwrap();
    store.append(batch("s", &[b"x", b"y"])).unwrap();
    let gone = replay.next_page().unwrap_err();
    assert_eq!(gone.kind(), ErrorKind::NotFound);
}

#[test]
fn an_iteration_ends_where_a_follower_cannot_find_out_whether_there_is_more() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder);
    store.append(batch("s", &[b"a"])).unwrap();
    let mut replay = store.follow(&id("s"), 1).unwrap();
    assert_eq!(next(&mut replay), ["a"]);
    set_in_session_row(store.path(), "raw_bytes", "-1");
    assert_eq!(replay.next_page().unwrap_err().kind(), ErrorKind::Damaged);
    let damaged = replay.next().unwrap().unwrap_err();
    assert_eq!(damaged.kind(), ErrorKind::Damaged);
    assert!(replay.next().is_none());
}

#[test]
fn a_follower_goes_on_after_damage_at_the_end_with_what_is_appended_later() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder);
    store.append(batch("s", &[b"a", b"b", b"c"])).unwrap();
    let connection = rusqlite::Connection::open(store.path()).unwrap();
    let damage = "UPDATE hot_messages SET payload = x'00' WHERE message_key & 4294967295 > 1";
    assert_eq!(connection.execute(damage, []).unwrap(), 2);
    let mut replay = store.follow(&id("s"), 1).unwrap();
    assert_eq!(next(&mut replay), ["a"]);
    for position in [3, 4] {
        let damaged = replay.next_page().unwrap_err();
        assert_eq!(damaged.kind(), ErrorKind::Damaged);
        assert_eq!(replay.position(), position);
    }
    assert_eq!(next(&mut replay), [""; 0]);
    store.append(batch("s", &[b"d"])).unwrap();
    assert_eq!(next(&mut replay), ["d"]);
}
