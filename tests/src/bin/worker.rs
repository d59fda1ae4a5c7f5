//! The process that the tests start, and kill: `worker ROLE STORE [key=value …]`.
//!
//! - `record`: threads that append, and note each answer in `acks`; with `churn=1` another one
//!   that compacts and deletes meanwhile.
//! - `compact`: compacts over and over.
//! - `replay`: reads one session and prints what it took.
//! - `lock`: holds SQLite's write lock for `ms`.
//!
//! `worker tool ARGUMENT …` is `betcode-db ARGUMENT …`: the program of another crate cannot be
//! relied on to be built when these tests run. `worker daemon NAME=VALUE …` is a daemon with these
//! settings, for the same reason.
//!
//! Each of the others ends at the end of its input, or when its work is done.

// As the rest of the crate: a failed unwrap ends the worker, which its test notices.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::Read;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use betcode_daemon::server::Daemon;
use betcode_daemon::settings::{self, Sources};
use betcode_db::cli::Cli;
use betcode_db::commands::{self, Context};
use betcode_db::interrupt::Interrupt;
use betcode_db::output::{Out, exit_after};
use betcode_storage::{
    Batch, CompactionPolicy, CompactionRequest, Durability, ErrorKind, ReadRange, SessionFilter,
    Store, StoreOptions, Tier,
};
use betcode_test_support::Random;
use betcode_test_support::proc;
use betcode_tests::history::{Event, id, options};
use betcode_tests::lines;
use clap::Parser;

struct Parameters(HashMap<String, String>);

impl Parameters {
    fn text(&self, key: &str) -> &str {
        self.0.get(key).map_or("", String::as_str)
    }

    fn number(&self, key: &str, default: u64) -> u64 {
        self.0
            .get(key)
            .map_or(default, |text| text.parse().unwrap())
    }
}

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let role = arguments.next().expect("a role");
    if role == "tool" {
        return tool(arguments);
    }
    if role == "daemon" {
        daemon(arguments);
        return ExitCode::SUCCESS;
    }
    let path = PathBuf::from(arguments.next().expect("a store"));
    let parameters = Parameters(
        arguments
            .map(|argument| {
                let (key, value) = argument.split_once('=').expect("key=value");
                (key.to_owned(), value.to_owned())
            })
            .collect(),
    );
    let stop = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&stop);
    std::thread::spawn(move || {
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        seen.store(true, Ordering::SeqCst);
    });
    match role.as_str() {
        "record" => record(&path, &parameters, &stop),
        "compact" => compact(&path, &parameters, &stop),
        "replay" => replay(&path, &parameters),
        "lock" => lock(&path, &parameters),
        other => panic!("no role {other:?}"),
    }
    ExitCode::SUCCESS
}

fn tool(arguments: impl Iterator<Item = String>) -> ExitCode {
    let cli = Cli::parse_from(["betcode-db".to_owned()].into_iter().chain(arguments));
    let mut out = Out::new(cli.global.mode());
    let interrupt = Interrupt::listen().unwrap();
    let context = Context {
        global: &cli.global,
        out: &mut out,
        interrupt: &interrupt,
    };
    let result = commands::run(&cli.command, context);
    exit_after(&mut out, result).into()
}

/// Serves until the end of its input, each line of which changes a setting as SIGHUP does.
fn daemon(arguments: impl Iterator<Item = String>) {
    let setting = |argument: String| {
        let (name, value) = argument.split_once('=').expect("name=value");
        (name.to_owned(), value.to_owned())
    };
    let mut sources = Sources {
        flags: arguments.map(setting).collect(),
        ..Sources::default()
    };
    let settings = settings::load(&sources).unwrap().settings;
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let daemon = Daemon::start(settings).await.unwrap();
        say("serving");
        let next_line = || std::io::stdin().lines().next();
        while let Some(line) = tokio::task::spawn_blocking(next_line).await.unwrap() {
            sources.flags.extend([setting(line.unwrap())]);
            let changed = settings::load(&sources).unwrap().settings;
            daemon.reload(&changed).unwrap();
            say("reloaded");
        }
        daemon.stop().await;
    });
}

fn say(text: &str) {
    use std::io::Write;
    let mut out = std::io::stdout().lock();
    writeln!(out, "{text}").unwrap();
    out.flush().unwrap();
}

fn store_options(parameters: &Parameters) -> StoreOptions {
    StoreOptions {
        durability: if parameters.text("durability") == "normal" {
            Durability::Normal
        } else {
            Durability::Full
        },
        ..options()
    }
}

/// Small segments and fast levels: many swaps and reclaims in little time.
fn hasty(tier: Tier, session: Option<&str>) -> CompactionRequest {
    let mut policy = CompactionPolicy {
        quick_segment_bytes_max: 32 << 10,
        deep_segment_bytes_max: 128 << 10,
        ..CompactionPolicy::default()
    };
    policy.quick.level = 1;
    policy.deep.level = 3;
    CompactionRequest {
        session: session.map(id),
        tier,
        policy,
        ..CompactionRequest::manual()
    }
}

fn record(path: &Path, parameters: &Parameters, stop: &Arc<AtomicBool>) {
    let store = Store::open(path, store_options(parameters)).unwrap();
    say("open");
    let acks = || {
        OpenOptions::new()
            .create(true)
            .append(true)
            .open(parameters.text("acks"))
            .unwrap()
    };
    let seed = parameters.number("seed", 1);
    let first_writer = parameters.number("writer", 1);
    let messages_max = parameters.number("messages", u64::MAX);
    let mut threads = Vec::new();
    for thread in 0..parameters.number("threads", 3) {
        let (store, stop, acks) = (store.clone(), Arc::clone(stop), acks());
        let sessions: Vec<String> = match parameters.text("sessions") {
            "" => vec![format!("own-{thread}")],
            list => list.split(',').map(str::to_owned).collect(),
        };
        let random = Random::new(seed ^ (thread << 32));
        threads.push(std::thread::spawn(move || {
            append(
                &store,
                first_writer + thread,
                &sessions,
                messages_max,
                random,
                &acks,
                &stop,
            );
        }));
    }
    let recording_ended = Arc::new(AtomicBool::new(false));
    if parameters.number("churn", 0) == 1 {
        let (store, ended, acks) = (store.clone(), Arc::clone(&recording_ended), acks());
        let writer = first_writer + 1000;
        let random = Random::new(seed ^ 0xc0de);
        let churn = std::thread::spawn(move || churn(&store, writer, random, &acks, &ended));
        for thread in threads.drain(..) {
            thread.join().unwrap();
        }
        recording_ended.store(true, Ordering::SeqCst);
        threads.push(churn);
    }
    for thread in threads {
        thread.join().unwrap();
    }
    store.close().unwrap();
}

/// Appends batches to its sessions in turn, and notes each answer before the next request.
fn append(
    store: &Store,
    writer: u64,
    sessions: &[String],
    messages_max: u64,
    mut random: Random,
    mut acks: &File,
    stop: &AtomicBool,
) {
    let mut next: HashMap<&str, u64> = HashMap::new();
    let mut sent = 0;
    while sent < messages_max && !stop.load(Ordering::SeqCst) {
        let session = &sessions[random.below(sessions.len() as u64) as usize];
        let n = next.entry(session).or_default();
        let messages = random.between(1, 4).min(messages_max - sent);
        let payloads = (*n..*n + messages)
            .map(|n| lines::payload(writer, n))
            .collect();
        let answer = store.append(Batch::new(id(session), payloads)).unwrap();
        Event::Appended {
            session: session.clone(),
            sequence: answer.first_sequence,
            writer,
            n: *n,
            messages,
        }
        .write(&mut acks);
        *n += messages;
        sent += messages;
    }
}

/// Compacts everything in both tiers, and records and deletes a session of its own, in turn.
fn churn(store: &Store, writer: u64, mut random: Random, mut acks: &File, stop: &AtomicBool) {
    let mut round = 0;
    while !stop.load(Ordering::SeqCst) {
        let session = format!("short-{writer}-{round}");
        let payloads: Vec<_> = (0..random.between(1, 200))
            .map(|n| lines::payload(writer, n))
            .collect();
        let messages = payloads.len() as u64;
        let answer = store.append(Batch::new(id(&session), payloads)).unwrap();
        Event::Appended {
            session: session.clone(),
            sequence: answer.first_sequence,
            writer,
            n: 0,
            messages,
        }
        .write(&mut acks);
        let tier = if random.below(3) == 0 {
            Tier::Deep
        } else {
            Tier::Quick
        };
        store
            .compact(&hasty(tier, None), &mut |_| goes_on(stop))
            .unwrap();
        Event::Deleting(session.clone()).write(&mut acks);
        store.delete(&id(&session)).unwrap();
        Event::Deleted(session).write(&mut acks);
        round += 1;
    }
}

fn goes_on(stop: &AtomicBool) -> ControlFlow<()> {
    if stop.load(Ordering::SeqCst) {
        ControlFlow::Break(())
    } else {
        ControlFlow::Continue(())
    }
}

fn compact(path: &Path, parameters: &Parameters, stop: &AtomicBool) {
    let store = Store::open(path, store_options(parameters)).unwrap();
    say("open");
    let mut segments = 0;
    let mut round = 0;
    while !stop.load(Ordering::SeqCst) {
        let tier = if round % 3 == 2 {
            Tier::Deep
        } else {
            Tier::Quick
        };
        match store.compact(&hasty(tier, None), &mut |_| goes_on(stop)) {
            Ok(outcome) => segments += outcome.segments,
            // Another process compacts; so it gets done.
            Err(error) if error.kind() == ErrorKind::Busy => {}
            Err(error) => panic!("{error}"),
        }
        round += 1;
        std::thread::sleep(Duration::from_millis(parameters.number("pause_ms", 5)));
    }
    say(&format!("segments {segments}"));
}

/// Prints messages, bytes, microseconds to the first message and in all, and the peak of the
/// memory that it took above what the open store had.
fn replay(path: &Path, parameters: &Parameters) {
    let store = Store::open_read_only(path, StoreOptions::default()).unwrap();
    let sessions = match parameters.text("session") {
        "" => store.sessions(&SessionFilter::default()).unwrap().sessions[0]
            .id
            .clone(),
        session => id(session),
    };
    let resident = proc::resident_bytes();
    let started = Instant::now();
    let mut first = None;
    let (mut messages, mut bytes) = (0_u64, 0_u64);
    for message in store.read(&sessions, ReadRange::all()).unwrap() {
        let message = message.unwrap();
        first.get_or_insert_with(|| started.elapsed());
        messages += 1;
        bytes += message.payload.len() as u64;
        assert_eq!(message.sequence, messages);
    }
    say(&format!(
        "{messages} {bytes} {} {} {} {resident}",
        first.unwrap_or_default().as_micros(),
        started.elapsed().as_micros(),
        proc::peak_resident_bytes(),
    ));
}

fn lock(path: &Path, parameters: &Parameters) {
    let connection = rusqlite::Connection::open(path).unwrap();
    connection.busy_timeout(Duration::from_secs(5)).unwrap();
    connection.execute_batch("BEGIN IMMEDIATE").unwrap();
    say("held");
    std::thread::sleep(Duration::from_millis(parameters.number("ms", 1000)));
    connection.execute_batch("ROLLBACK").unwrap();
    say("released");
}
