//! Signals that ask a command to stop.

use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::tool::{Tool, interrupt, is_ignored};

fn tool() -> Tool {
    let tool = Tool::new();
    tool.write("src/a.jsonl", "one\ntwo\n");
    tool.ok(["import".as_ref(), tool.path("src").as_os_str()]);
    tool
}

fn send(child: &Child, signal: Signal) {
    kill_process(Pid::from_child(child), signal).unwrap();
}

#[test]
fn two_signals_at_once_are_one_wish_to_stop() {
    let tool = tool();
    let mut signals = vec![Signal::TERM, Signal::INT, Signal::HUP];
    signals.retain(|&signal| !is_ignored(signal));
    // `timeout` of coreutils signals its child, and then its group, which the child is in.
    for signal in signals.repeat(5) {
        let mut following = tool
            .command(["cat", "a", "--follow"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(following.stdout.take().unwrap()).lines();
        assert_eq!(lines.next().unwrap().unwrap(), "one");
        send(&following, signal);
        thread::sleep(Duration::from_millis(1));
        send(&following, signal);
        assert_eq!(following.wait().unwrap().code(), Some(0), "{signal:?}");
    }
}

#[test]
fn a_signal_that_comes_long_after_the_first_ends_the_process_at_once() {
    let tool = tool();
    let lock = rusqlite::Connection::open(tool.db()).unwrap();
    lock.execute_batch("BEGIN IMMEDIATE").unwrap();
    // It waits for the lock, and asks nobody meanwhile.
    let mut waiting = tool
        .command(["rename", "a", "new name"])
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    thread::sleep(Duration::from_millis(500));
    interrupt(&waiting);
    thread::sleep(Duration::from_millis(1500));
    assert!(waiting.try_wait().unwrap().is_none());
    interrupt(&waiting);
    assert_eq!(waiting.wait().unwrap().code(), Some(130));
}
