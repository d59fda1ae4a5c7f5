//! `cat`: a session's lines on stdout.

use std::ops::ControlFlow;

use betcode_storage::{Message, ReadRange};
use serde_json::{Value, json};

use super::{Context, resolve};
use crate::base64;
use crate::error::{Exit, Result};
use crate::export::content;

/// Write a session's lines to stdout
#[derive(Debug, clap::Args)]
#[command(after_help = "\
The whole of an imported session is the file it came from, byte for byte. With --json: \
{session, messages: [{sequence, received_ms, payload | payload_base64}]}.")]
pub struct Args {
    /// The session's id, or its beginning
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
}

/// Runs the command.
pub(super) fn run(args: &Args, context: Context<'_>) -> Result<Exit> {
    let store = context.open_read_only()?;
    let session = resolve(&store, &args.session)?;
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
        // One document, written as it is read: a session may be larger than memory.
        out.raw(format!("{{\"session\":{},\"messages\":[", json!(session.as_str())).as_bytes());
        let mut between = "\n";
        for message in store.read(&session, range)? {
            out.raw(between.as_bytes());
            out.raw(document(&message?).to_string().as_bytes());
            between = ",\n";
            if out.reader_gone() || interrupt.raised() {
                break;
            }
        }
        out.raw(b"\n]}\n");
    } else {
        content::pieces(&store, &session, range, &mut |piece| {
            out.raw(piece);
            let stop = out.reader_gone() || interrupt.raised();
            Ok(if stop {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            })
        })?;
    }
    Ok(if interrupt.raised() {
        Exit::Interrupted
    } else {
        Exit::Ok
    })
}

fn document(message: &Message) -> Value {
    let mut document = json!({"sequence": message.sequence, "received_ms": message.received_ms});
    match std::str::from_utf8(&message.payload) {
        Ok(text) => document["payload"] = json!(text),
        Err(_) => document["payload_base64"] = json!(base64::encode(&message.payload)),
    }
    document
}
