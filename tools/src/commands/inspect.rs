//! `inspect`: where a session's stored bytes are.

use std::collections::BTreeMap;

use betcode_storage::segment::{CodecVersion, KindBytes, Part, PartBytes};
use betcode_storage::{
    DamagedSession, ErrorKind, InspectedSegment, Inspection, SessionFilter, Store, StoreError,
};
use serde_json::{Value, json};

use super::{Context, damaged_documents, resolve, show_damaged};
use crate::error::{Exit, Result};
use crate::output::{Out, Unit, format};

/// Show how stored bytes split by part and by type of message
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Parts of a segment that are compressed together have no size of their own: what they take is \
apportioned (marked ~) by what each takes when compressed alone. The same goes for types of \
messages, and for what the session shares with others of its working directory.")]
pub struct Args {
    /// Session id, unique part of it, or name; without one, all sessions together
    session: Option<String>,
}

/// Runs the command.
pub(super) fn run(args: &Args, context: Context<'_>) -> Result<Exit> {
    let store = context.open_read_only()?;
    let Some(session) = &args.session else {
        return run_all(&store, context);
    };
    let id = resolve(&store, session)?;
    let found = store.inspect(&id)?;
    context.out.json(&document(&found));
    show(context.out, &found);
    Ok(Exit::Ok)
}

/// Sums over sessions.
#[derive(Default)]
struct Sums {
    sessions: u64,
    raw_bytes: u64,
    segment_bytes: u64,
    base_share_bytes: u64,
    hot_messages: u64,
    hot_bytes: u64,
    parts: BTreeMap<Part, PartBytes>,
    types: BTreeMap<String, KindBytes>,
}

impl Sums {
    fn add(&mut self, found: &Inspection) {
        self.sessions += 1;
        self.raw_bytes += raw_bytes(found);
        self.segment_bytes += segment_bytes(found);
        self.base_share_bytes += base_share_bytes(found);
        self.hot_messages += found.hot_messages;
        self.hot_bytes += found.hot_bytes;
        for (part, bytes) in found.parts() {
            self.parts.entry(part).or_default().add(&bytes);
        }
        for (name, bytes) in found.types() {
            let sum = self.types.entry(name).or_default();
            sum.messages += bytes.messages;
            sum.raw_bytes += bytes.raw_bytes;
            sum.apportioned_bytes += bytes.apportioned_bytes;
        }
    }
}

/// All sessions together. Decodes every segment, one at a time.
fn run_all(store: &Store, context: Context<'_>) -> Result<Exit> {
    let list = store.sessions(&SessionFilter::default())?;
    let (sessions, mut damaged) = (list.sessions, list.damaged);
    let bytes = sessions.iter().map(|session| session.raw_bytes).sum();
    let progress = context.out.progress("inspecting", bytes, Unit::Bytes);
    let mut sums = Sums::default();
    for session in sessions {
        if context.interrupt.raised() {
            return Err(StoreError::Cancelled.into());
        }
        match store.inspect(&session.id) {
            Ok(found) => sums.add(&found),
            // Deleted meanwhile.
            Err(StoreError::SessionNotFound { .. }) => {}
            Err(error) if error.kind() == ErrorKind::Damaged => damaged.push(DamagedSession {
                id: Some(session.id.clone()),
                what: error.to_string(),
            }),
            Err(error) => return Err(error.into()),
        }
        progress.add(session.raw_bytes);
    }
    drop(progress);
    let stored_bytes = sums.segment_bytes + sums.hot_bytes;
    context.out.json(&json!({
        "session": null,
        "sessions": sums.sessions,
        "raw_bytes": sums.raw_bytes,
        "stored_bytes": stored_bytes,
        "segment_bytes": sums.segment_bytes,
        "hot_messages": sums.hot_messages,
        "hot_bytes": sums.hot_bytes,
        "base_share_bytes": sums.base_share_bytes,
        "parts": parts(&sums.parts),
        "types": types(&sums.types),
        "damaged": damaged_documents(&damaged),
    }));
    let out = context.out;
    out.line(format!(
        "{}: {} in {}, {}; {} more shared by projects",
        format::counted(sums.sessions, "session"),
        format::bytes(sums.raw_bytes),
        format::bytes(stored_bytes),
        format::share(stored_bytes, sums.raw_bytes),
        format::bytes(sums.base_share_bytes),
    ));
    show_hot(out, sums.hot_messages, sums.hot_bytes);
    if sums.segment_bytes > 0 {
        show_tables(out, sums.parts, sums.types, sums.segment_bytes);
    }
    show_damaged(out, &damaged);
    Ok(if damaged.is_empty() {
        Exit::Ok
    } else {
        Exit::Damaged
    })
}

fn segment_bytes(found: &Inspection) -> u64 {
    found.segments.iter().map(|s| s.anatomy.stored_bytes).sum()
}

fn raw_bytes(found: &Inspection) -> u64 {
    let in_segments: u64 = found.segments.iter().map(|s| s.anatomy.raw_bytes).sum();
    in_segments + found.hot_bytes
}

fn base_share_bytes(found: &Inspection) -> u64 {
    found.bases.iter().map(|base| base.apportioned_bytes).sum()
}

fn codec(version: CodecVersion) -> u8 {
    version as u8
}

fn base_name(base_id: Option<u64>) -> Option<String> {
    base_id.map(|id| format!("{id:016x}"))
}

fn document(found: &Inspection) -> Value {
    let segment = |s: &InspectedSegment| {
        json!({
            "first_sequence": s.info.first_sequence,
            "last_sequence": s.info.last_sequence,
            "tier": s.info.tier.name(),
            "codec": codec(s.anatomy.version),
            "base": base_name(s.anatomy.base_id),
            "raw_bytes": s.anatomy.raw_bytes,
            "stored_bytes": s.anatomy.stored_bytes,
            "parts": parts(&s.anatomy.parts),
            "types": types(&s.types),
        })
    };
    let bases: Vec<_> = found
        .bases
        .iter()
        .map(|base| {
            json!({
                "base": base_name(Some(base.base_id)),
                "stored_bytes": base.stored_bytes,
                "apportioned_bytes": base.apportioned_bytes,
            })
        })
        .collect();
    json!({
        "session": found.session.as_str(),
        "raw_bytes": raw_bytes(found),
        "stored_bytes": segment_bytes(found) + found.hot_bytes,
        "segment_bytes": segment_bytes(found),
        "hot_messages": found.hot_messages,
        "hot_bytes": found.hot_bytes,
        "base_share_bytes": base_share_bytes(found),
        "parts": parts(&found.parts()),
        "types": types(&found.types()),
        "segments": found.segments.iter().map(segment).collect::<Vec<_>>(),
        "bases": bases,
    })
}

fn parts(parts: &BTreeMap<Part, PartBytes>) -> Vec<Value> {
    let part = |(part, bytes): (&Part, &PartBytes)| {
        json!({
            "part": part.name(),
            "raw_bytes": bytes.raw_bytes,
            "stored_bytes": bytes.stored_bytes,
            "apportioned_bytes": bytes.apportioned_bytes,
        })
    };
    parts.iter().map(part).collect()
}

fn types(types: &BTreeMap<String, KindBytes>) -> Vec<Value> {
    let kind = |(name, bytes): (&String, &KindBytes)| {
        json!({
            "type": name,
            "messages": bytes.messages,
            "raw_bytes": bytes.raw_bytes,
            "apportioned_bytes": bytes.apportioned_bytes,
        })
    };
    types.iter().map(kind).collect()
}

fn show(out: &mut Out, found: &Inspection) {
    let stored = segment_bytes(found) + found.hot_bytes;
    out.line(format!(
        "{}: {} in {}, {}",
        found.session,
        format::bytes(raw_bytes(found)),
        format::bytes(stored),
        format::share(stored, raw_bytes(found)),
    ));
    show_hot(out, found.hot_messages, found.hot_bytes);
    if !found.bases.is_empty() {
        let all: u64 = found.bases.iter().map(|base| base.stored_bytes).sum();
        out.line(format!(
            "shared with its directory's sessions: {}, of which ~{} count as its own",
            format::bytes(all),
            format::bytes(base_share_bytes(found))
        ));
    }
    if found.segments.is_empty() {
        return;
    }
    show_tables(out, found.parts(), found.types(), segment_bytes(found));
    out.line("");
    out.line(format!(
        "{:<24} {:>10} {:>11} {:>7}  LARGEST PARTS",
        "SEGMENT", "RAW", "STORED", "TIER"
    ));
    for segment in &found.segments {
        let anatomy = &segment.anatomy;
        let largest: Vec<String> = largest_first(anatomy.parts.clone(), |b| b.stored_bytes)
            .into_iter()
            .take(3)
            .map(|(part, bytes)| {
                let share = format::share(bytes.stored_bytes, anatomy.stored_bytes);
                format!("{} {share}", part.name())
            })
            .collect();
        out.line(format!(
            "{:<24} {:>10} {:>11} {:>7}  {}",
            format!(
                "{}-{}",
                segment.info.first_sequence, segment.info.last_sequence
            ),
            format::bytes(anatomy.raw_bytes),
            format::bytes(anatomy.stored_bytes),
            segment.info.tier.name(),
            largest.join(", ")
        ));
    }
}

fn show_hot(out: &mut Out, messages: u64, bytes: u64) {
    if messages > 0 {
        out.line(format!(
            "not compacted: {}, {}",
            format::counted(messages, "message"),
            format::bytes(bytes)
        ));
    }
}

/// Parts and types, the largest first, as shares of `stored`.
fn show_tables(
    out: &mut Out,
    parts: BTreeMap<Part, PartBytes>,
    types: BTreeMap<String, KindBytes>,
    stored: u64,
) {
    out.line("");
    out.line(format!(
        "{:<24} {:>10} {:>11} {:>7}",
        "PART", "RAW", "STORED", "SHARE"
    ));
    for (part, bytes) in largest_first(parts, |bytes| bytes.stored_bytes) {
        let mark = bytes.apportioned_bytes > 0;
        row(
            out,
            part.name(),
            bytes.raw_bytes,
            bytes.stored_bytes,
            mark,
            stored,
        );
    }
    out.line("");
    out.line(format!(
        "{:<24} {:>10} {:>11} {:>7}",
        "TYPE", "RAW", "STORED", "SHARE"
    ));
    for (name, bytes) in largest_first(types, |bytes| bytes.apportioned_bytes) {
        let name = format::cut(&name, 24);
        row(
            out,
            &name,
            bytes.raw_bytes,
            bytes.apportioned_bytes,
            true,
            stored,
        );
    }
}

fn row(out: &mut Out, name: &str, raw: u64, stored: u64, apportioned: bool, all: u64) {
    let mark = if apportioned { "~" } else { "" };
    out.line(format!(
        "{name:<24} {:>10} {:>11} {:>7}",
        format::bytes(raw),
        format!("{mark}{}", format::bytes(stored)),
        format::share(stored, all)
    ));
}

fn largest_first<K, V>(map: BTreeMap<K, V>, bytes: impl Fn(&V) -> u64) -> Vec<(K, V)> {
    let mut all: Vec<(K, V)> = map.into_iter().collect();
    all.sort_by_key(|(_, value)| std::cmp::Reverse(bytes(value)));
    all
}
