//! The start of a conversation: its session found, or made.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use betcode_schema_grpc::v1::agent_event::Event;
use betcode_schema_grpc::v1::{AgentStatus, SessionInfo, StartConversation, StatusChange};
use betcode_storage::{Batch, Session, SessionId, SessionMeta, StoreError};
use tonic::Status;
use uuid::Uuid;

use super::find;
use crate::agents::{Options, working_directory};
use crate::core::{Core, session_id};
use crate::limits::{METADATA_ENTRIES_MAX, REFUSAL_TEXT_BYTES_MAX};
use crate::status::{failed_precondition, from_store, invalid, out_of_range, short};

/// A session that a client may attach to.
pub(super) struct Opened {
    pub(super) session: Session,
    pub(super) known: bool,
    pub(super) options: Options,
    /// The line after which the stream begins; `None`: the session's last.
    pub(super) from: Option<u64>,
    /// The directory that the client named, if the session works in another one.
    pub(super) ignored_directory: Option<PathBuf>,
}

pub(super) async fn open(core: &Arc<Core>, start: StartConversation) -> Result<Opened, Status> {
    let id = match start.session_id.as_str() {
        // A client that leaves the name to the daemon; `SessionInfo` has it.
        "" => session_id(&Uuid::new_v4().to_string())?,
        named => session_id(named)?,
    };
    let from = check_metadata(&start)?;
    let mut options = Options {
        working_directory: PathBuf::from(&start.working_directory),
        model: start.model.clone(),
        plan_mode: start.plan_mode,
        allowed_tools: start.allowed_tools.clone(),
    };
    options.check()?;
    let found = match find(core, &id).await {
        Err(StoreError::SessionNotFound { .. }) => None,
        found => Some(found.map_err(|error| from_store(&error))?),
    };
    let known = found.is_some();
    // Before a session is made: what is refused leaves none behind.
    let last = found.as_ref().map_or(0, |session| session.messages);
    if from.is_some_and(|from| from > last) {
        let message = format!("the session ends at sequence {last}; begin there or earlier");
        return Err(out_of_range(message));
    }
    let session = match found {
        Some(session) => session,
        None => {
            let folder = options.working_directory.clone();
            core.blocking.files(move || check_folder(&folder)).await??;
            if !core.agents.could_make_room() {
                core.admission.subprocesses.check()?;
            }
            create(core, id, &start).await?
        }
    };
    let (named, kept) = (options.working_directory, session.clone());
    let folder = core.blocking.files(move || folder_of(&kept, named));
    let ignored_directory;
    (options.working_directory, ignored_directory) = folder.await??;
    Ok(Opened {
        session,
        known,
        options,
        from,
        ignored_directory,
    })
}

async fn create(
    core: &Arc<Core>,
    id: SessionId,
    start: &StartConversation,
) -> Result<Session, Status> {
    let name = start.metadata.get("name").cloned().unwrap_or_default();
    let batch = Batch {
        meta: SessionMeta {
            name,
            model: start.model.clone(),
            working_directory: start.working_directory.clone(),
            worktree_id: start.worktree_id.clone(),
            agent_session_id: String::new(),
        },
        ..Batch::new(id.clone(), Vec::new())
    };
    let store = core.store.clone();
    let create = move || {
        store.append(batch)?;
        store.session(&id)
    };
    let created = core.blocking.write(create).await;
    created.map_err(|error| from_store(&error))
}

fn check_metadata(start: &StartConversation) -> Result<Option<u64>, Status> {
    let entries = start.metadata.len();
    if entries > METADATA_ENTRIES_MAX {
        let why = format!("it has {entries} entries, at most {METADATA_ENTRIES_MAX}");
        return Err(invalid("metadata", why));
    }
    let from = start.metadata.get("from_sequence");
    from.map(|from| from.parse())
        .transpose()
        .map_err(|_| invalid("metadata.from_sequence", "it is no sequence"))
}

fn check_folder(folder: &Path) -> Result<(), Status> {
    working_directory(folder).map_err(|why| {
        let message = format!("the agent cannot work in {why}");
        failed_precondition("WORKING_DIRECTORY", message)
    })
}

/// Where the agent of a session works: where it always did, because its own memory of the session belongs to
/// that directory. Many clients name the directory that they are in themselves, whatever the session: another
/// one than the session's is returned beside it, so that the client can be told that it does not count.
fn folder_of(session: &Session, named: PathBuf) -> Result<(PathBuf, Option<PathBuf>), Status> {
    let kept = Path::new(&session.meta.working_directory);
    if kept.as_os_str().is_empty() {
        check_folder(&named)?;
        return Ok((named, None));
    }
    let same = |a: &Path, b: &Path| {
        a == b || matches!((a.canonicalize(), b.canonicalize()), (Ok(a), Ok(b)) if a == b)
    };
    let is_other = !named.as_os_str().is_empty() && !same(kept, &named);
    // Whether it is there still is found when the agent starts: history can be looked at without it.
    Ok((kept.to_owned(), is_other.then_some(named)))
}

/// Tells a client that the directory it named does not count.
pub(super) fn directory_ignored(status: &str, works_in: &Path, named: &Path) -> Event {
    let status = match status {
        "active" => AgentStatus::Thinking,
        "waiting" => AgentStatus::WaitingForUser,
        _ => AgentStatus::Idle,
    };
    Event::StatusChange(StatusChange {
        status: status.into(),
        message: format!(
            "the session works in {}, where it began, and not in {}",
            works_in.display(),
            short(named.display().to_string(), REFUSAL_TEXT_BYTES_MAX),
        ),
    })
}

/// What a stream gets first: of models the one that answers its messages. That is the one it asks
/// for, else that of the agent that runs, else the session's.
pub(super) fn info(session: &Session, known: bool, options: &Options, running: &str) -> Event {
    let models = [options.model.as_str(), running, &session.meta.model];
    let model = models.into_iter().find(|model| !model.is_empty());
    let model = model.unwrap_or_default().to_owned();
    Event::SessionInfo(SessionInfo {
        session_id: session.id.to_string(),
        model,
        working_directory: options.working_directory.display().to_string(),
        worktree_id: session.meta.worktree_id.clone(),
        message_count: session.messages,
        is_resumed: known,
        is_compacted: session.segments > 0,
        context_usage_percent: 0.0,
    })
}
