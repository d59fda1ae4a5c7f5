//! `cat`: a session's lines on stdout.

use std::ops::ControlFlow;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use betcode_storage::{Message, ReadRange, Replay, SessionId, Store, StoreError};
use serde_json::{Value, json};

use super::{Context, resolve};
use crate::error::{Exit, Failure, Result};
use crate::export::content::{self, LineEnds};
use crate::interrupt::Interrupt;
use crate::limits;
use crate::output::Out;

/// Write a session's lines to stdout
#[derive(Debug, clap::Args)]
#[command(after_help = "\
The whole of an imported session is the file it came from, byte for byte. With --json: \
{session, messages: [{sequence, received_ms, payload | payload_base64}]}, and error when \
reading fails on the way.")]
pub struct Args {
    /// Session id, unique part of it, or name
    session: String,
    /// First sequence to write, from 1
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    from: Option<u64>,
    /// Last sequence to write
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    to: Option<u64>,
    /// Only the last N messages
    #[arg(long, value_name = "N", conflicts_with_all = ["from", "to"])]
    #[arg(value_parser = clap::value_parser!(u64).range(1..))]
    last: Option<u64>,
    /// Continue with what is appended, until Ctrl-C
    #[arg(long, short, conflicts_with = "to")]
    follow: bool,
}

impl Args {
    /// The option that asks for something else than JSON.
    pub(super) fn not_json(&self) -> Option<&'static str> {
        self.follow.then_some("--follow")
    }
}

/// Runs the command.
pub(super) fn run(args: &Args, context: Context<'_>) -> Result<Exit> {
    let store = context.open_read_only()?;
    let session = resolve(&store, &args.session)?;
    if let (Some(from), Some(to)) = (args.from, args.to)
        && from > to
    {
        let what = format!("--from {from} is greater than --to {to}");
        return Err(Failure::new(Exit::Usage, what).hint("give the smaller sequence with --from"));
    }
    let range = match args.last {
        Some(last) => ReadRange::last(last),
        None => ReadRange {
            to: args.to,
            ..ReadRange::from(args.from.unwrap_or(1))
        },
    };
    let Context {
        global,
        out,
        interrupt,
    } = context;
    if global.json {
        return write_json(store.read(&session, range)?, &session, out, interrupt);
    }
    let ends = LineEnds::of(&store, &session)?;
    let last = write(&store, &session, &ends, range, out, interrupt)?;
    if args.follow {
        let next = last.map_or(args.from.unwrap_or(1), |last| last + 1);
        let is_open = last.is_some_and(|last| !ends.newline_after(last));
        follow(&store, &session, next, is_open, out, interrupt)?;
        // Ctrl-C is how this ends.
        return Ok(Exit::Ok);
    }
    Ok(if interrupt.raised() {
        Exit::Interrupted
    } else {
        Exit::Ok
    })
}

/// Writes one document as it is read: a session may be larger than memory.
fn write_json(
    mut replay: Replay,
    session: &SessionId,
    out: &mut Out,
    interrupt: &Interrupt,
) -> Result<Exit> {
    // What fails before anything is written is a document of its own.
    let first = replay.next_page()?;
    out.raw(format!("{{\"session\":{},\"messages\":[", json!(session.as_str())).as_bytes());
    let Err(failure) = write_documents(first, replay, out, interrupt) else {
        out.raw(b"\n]}\n");
        return Ok(Exit::Ok);
    };
    // A part of the document is written already, so the error is added to it.
    out.raw(format!("\n],\"error\":{}}}\n", failure.to_json()["error"]).as_bytes());
    out.failure_in_words(&failure);
    Ok(failure.exit)
}

fn write_documents(
    mut page: Option<Vec<Message>>,
    mut replay: Replay,
    out: &mut Out,
    interrupt: &Interrupt,
) -> Result<()> {
    let mut between = "\n";
    while let Some(messages) = page {
        for message in &messages {
            out.raw(between.as_bytes());
            out.raw(document(message).to_string().as_bytes());
            between = ",\n";
            if out.reader_gone() {
                return Ok(());
            }
            if interrupt.raised() {
                return Err(StoreError::Cancelled.into());
            }
        }
        page = replay.next_page()?;
    }
    Ok(())
}

/// Writes a range; the last message of it.
fn write(
    store: &Store,
    session: &SessionId,
    ends: &LineEnds,
    range: ReadRange,
    out: &mut Out,
    interrupt: &Interrupt,
) -> Result<Option<u64>> {
    let written = content::pieces_with(store, session, ends, range, &mut |piece| {
        out.raw(piece);
        let stop = out.reader_gone() || interrupt.raised();
        Ok(if stop {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        })
    })?;
    Ok(written.last_sequence)
}

/// Writes what is appended from sequence `next` on, until it is interrupted. `is_open` says that the
/// line before has no newline yet, which an import may bring.
fn follow(
    store: &Store,
    session: &SessionId,
    mut next: u64,
    mut is_open: bool,
    out: &mut Out,
    interrupt: &Interrupt,
) -> Result<()> {
    loop {
        out.flush();
        out.check_reader();
        if out.reader_gone() || interrupt.raised() {
            return Ok(());
        }
        let ends = LineEnds::of(store, session)?;
        if is_open && ends.newline_after(next - 1) {
            out.raw(b"\n");
            is_open = false;
        }
        match write(store, session, &ends, ReadRange::from(next), out, interrupt)? {
            Some(last) => {
                next = last + 1;
                is_open = !ends.newline_after(last);
            }
            None => std::thread::sleep(Duration::from_millis(limits::FOLLOW_POLL_MS)),
        }
    }
}

fn document(message: &Message) -> Value {
    let mut document = json!({"sequence": message.sequence, "received_ms": message.received_ms});
    match std::str::from_utf8(&message.payload) {
        Ok(text) => document["payload"] = json!(text),
        Err(_) => document["payload_base64"] = json!(STANDARD.encode(&message.payload)),
    }
    document
}
