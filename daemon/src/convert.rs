//! The store's values as messages of `betcode.history.v1`.

use betcode_schema_grpc::history as proto;
use betcode_storage::capacity::levels::Metric;
use betcode_storage::capacity::planner::MetricSample;
use betcode_storage::{
    CompactionOutcome, CompactionPhase, CompactionProgress, CompactionRun, DamagedSession,
    ImportMark, Session, SessionMeta, VerifyProgress, VerifyReport,
};
use tonic::Status;

use crate::limits::PROBLEMS_MAX;
use crate::status::{STATUS_TEXT_BYTES_MAX, invalid, short};

/// What is known of a session, from a client.
#[must_use]
pub fn meta_from(meta: proto::SessionMeta) -> SessionMeta {
    SessionMeta {
        name: meta.name,
        model: meta.model,
        working_directory: meta.working_directory,
        worktree_id: meta.worktree_id,
        agent_session_id: meta.agent_session_id,
    }
}

/// How far a file was taken, from an importer.
///
/// # Errors
/// When the digest is none.
pub fn import_mark_from(mark: proto::ImportMark) -> Result<ImportMark, Status> {
    let digest: [u8; 16] = mark
        .taken_digest
        .as_ref()
        .try_into()
        .map_err(|_| invalid("import_mark.taken_digest", "it must have 16 bytes"))?;
    Ok(ImportMark {
        source_path: mark.source_path.into(),
        relative_path: mark.relative_path.into(),
        taken_bytes: mark.taken_bytes,
        taken_digest: u128::from_be_bytes(digest),
        unterminated: mark.unterminated,
        joins: mark.joins,
    })
}

/// A session whose row cannot be read, for a client.
#[must_use]
pub fn damaged(session: DamagedSession) -> proto::DamagedSession {
    proto::DamagedSession {
        session_id: session.id.map(|id| id.to_string()).unwrap_or_default(),
        what: short(session.what, STATUS_TEXT_BYTES_MAX),
    }
}

/// A session, for a client.
#[must_use]
pub fn session(session: Session) -> proto::Session {
    let tokens = session.usage.tokens();
    let stored_bytes = session.stored_bytes();
    let meta = session.meta;
    proto::Session {
        session_id: session.id.to_string(),
        meta: Some(proto::SessionMeta {
            name: meta.name,
            model: meta.model,
            working_directory: meta.working_directory,
            worktree_id: meta.worktree_id,
            agent_session_id: meta.agent_session_id,
        }),
        created_ms: session.created_ms,
        updated_ms: session.updated_ms,
        messages: session.messages,
        raw_bytes: session.raw_bytes,
        stored_bytes,
        hot_messages: session.hot_messages,
        segments: session.segments,
        active_ms: session.active_ms,
        first_time_ms: session.first_time_ms,
        last_time_ms: session.last_time_ms,
        usage: Some(proto::Usage {
            input_tokens: tokens.input,
            output_tokens: tokens.output,
            cache_read_tokens: tokens.cache_read,
            cache_creation_tokens: tokens.cache_creation,
            cost_usd: session.usage.cost_usd(),
        }),
        last_preview: session.last_preview,
    }
}

/// How far a compaction is.
#[must_use]
pub fn compaction_progress(progress: &CompactionProgress) -> proto::CompactionProgress {
    let phase = match progress.phase {
        CompactionPhase::Preparing => "preparing",
        CompactionPhase::Encoding => "encoding",
        CompactionPhase::Reclaiming => "reclaiming",
    };
    proto::CompactionProgress {
        phase: phase.to_owned(),
        steps_done: progress.steps_done,
        steps: progress.steps,
        raw_bytes_done: progress.raw_bytes_done,
        raw_bytes: progress.raw_bytes,
    }
}

/// What a compaction did.
#[must_use]
pub fn compaction_outcome(outcome: &CompactionOutcome) -> proto::CompactionOutcome {
    proto::CompactionOutcome {
        bytes_before: outcome.bytes_before,
        bytes_after: outcome.bytes_after,
        messages: outcome.messages,
        raw_bytes: outcome.raw_bytes,
        segments: outcome.segments,
        segments_replaced: outcome.segments_replaced,
        failures: outcome
            .failures
            .iter()
            .map(|failure| proto::CompactionFailure {
                session_id: failure.session.to_string(),
                why: failure.why.clone(),
            })
            .collect(),
        cancelled: outcome.cancelled,
        seconds: outcome.seconds,
    }
}

/// A run of compaction as kept.
#[must_use]
pub fn compaction_run(run: CompactionRun) -> proto::CompactionRun {
    proto::CompactionRun {
        run_id: run.run_id,
        started_ms: run.started_ms,
        finished_ms: run.finished_ms,
        trigger: run.trigger,
        tier: run.tier,
        outcome: run.outcome.name().to_owned(),
        bytes_before: run.bytes_before,
        bytes_after: run.bytes_after,
        messages: run.messages,
        raw_bytes: run.raw_bytes,
        segments_written: run.segments_written,
        segments_replaced: run.segments_replaced,
        detail: run.detail,
    }
}

/// How near a limit is.
#[must_use]
pub fn resource_level(sample: MetricSample) -> proto::ResourceLevel {
    let unit = match sample.metric {
        Metric::SqliteSize | Metric::Memory | Metric::Disk => "bytes",
        Metric::Cpu => "milliprocessors",
        Metric::Sessions | Metric::Tunnels | Metric::BufferSize => "count",
    };
    proto::ResourceLevel {
        resource: sample.metric.name().to_owned(),
        used: sample.used,
        limit: sample.limit,
        unit: unit.to_owned(),
        level: sample.level.name().to_owned(),
    }
}

/// How far a check is.
#[must_use]
pub fn verify_progress(progress: &VerifyProgress) -> proto::VerifyProgress {
    proto::VerifyProgress {
        messages_done: progress.messages_done,
        messages: progress.messages,
        raw_bytes_done: progress.raw_bytes_done,
    }
}

/// What a check found.
#[must_use]
pub fn verify_report(report: VerifyReport) -> proto::VerifyReport {
    proto::VerifyReport {
        ok: report.ok(),
        sessions: report.sessions,
        messages: report.messages,
        raw_bytes: report.raw_bytes,
        segments: report.segments,
        problems_total: report.problems.len() as u64,
        problems: report
            .problems
            .into_iter()
            .take(PROBLEMS_MAX)
            .map(|problem| proto::Problem {
                kind: problem.kind.name().to_owned(),
                session_id: problem.session.unwrap_or_default(),
                sequence: problem.sequence.unwrap_or_default(),
                what: problem.what,
            })
            .collect(),
    }
}
