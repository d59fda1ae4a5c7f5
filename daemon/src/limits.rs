//! Bounds of the daemon, in one place, with units.
//!
//! What a settings file may change stands in [`crate::settings`] with its minimum and maximum.
//! MiB is 2^20.

/// Payload bytes of one answer of a read or a follow (a single larger message is sent in parts).
pub const FRAME_BYTES_MAX: usize = 256 << 10;
/// Messages of one answer.
pub const FRAME_MESSAGES_MAX: usize = 1024;
/// A message longer than this is sent in parts of this size, so that clients with gRPC's usual
/// bound of 4 MiB can read all of history.
pub const PART_BYTES_MAX: usize = 1 << 20;
/// Answers that wait for a slow client; then its reader waits.
pub const ANSWERS_AHEAD_MAX: usize = 2;
/// Replays that keep a decoded segment at once: each takes up to two of at most 4 MiB.
pub const WARM_REPLAYS_MAX: usize = 8;
/// Pages that a replay reads before it gives its place to one that waits.
pub const WARM_PAGES_MAX: usize = 8;
/// A client that takes longer than this for an answer is slow: its replay gives its place away.
pub const SLOW_CLIENT_MS: u64 = 50;
/// A line from this length on is long: it takes room, with what is made of it, until its client has it.
pub const LONG_LINE_BYTES_MIN: usize = 128 << 10;
/// Bytes of all long lines and of what is made of them; then their replays wait.
pub const LONG_LINES_BYTES_MAX: usize = 64 << 20;
/// A replay that waits longer than this for room ends: those who have it do not read.
pub const LONG_LINES_WAIT_MS_MAX: u64 = 60_000;
/// Unit in which this room is counted out.
pub const LONG_LINES_UNIT_BYTES: usize = 1 << 10;
/// Lines whose events are handed to a client together have so many bytes at most; a longer line is
/// handed on alone.
pub const LINES_TOGETHER_BYTES_MAX: usize = 64 << 10;
/// Room that a request needs besides its payloads.
pub const REQUEST_OVERHEAD_BYTES: usize = 256 << 10;

/// Batches of one append stream that are read ahead of their answers.
pub const BATCHES_AHEAD_MAX: usize = 256;
/// Sessions of one append stream whose order is remembered. Beyond it idle ones are forgotten; when that
/// makes no room, most have had a batch refused, and the stream ends.
pub const APPEND_SESSIONS_REMEMBERED_MAX: usize = 1024;
/// Batches that are put into the writer's queue at once; each takes a thread while the queue is full.
pub const APPENDS_QUEUING_MAX: usize = 256;
/// Other writes at once: what agents print, new names, deletions.
pub const WRITES_MAX: usize = 64;
/// Looks at files that clients name, at once.
pub const FILE_LOOKS_MAX: usize = 32;
/// Reads at once, the most that a setting may ask for.
pub const READS_MAX_CEILING: usize = 64;
/// Threads for calls that block.
pub const BLOCKING_THREADS_MAX: usize = 512;
/// Of these, what is left over for the look at the store, files, and the start and end of parts.
pub const BLOCKING_THREADS_RESERVED: usize = 64;
/// Bytes that a message in flight counts for besides its payload.
pub const MESSAGE_IN_FLIGHT_BYTES: usize = betcode_storage::limits::QUEUED_MESSAGE_BYTES;
/// Bytes that a message in a follower's buffer counts for besides its payload, which is shared.
pub const MESSAGE_FOLLOWED_BYTES: usize = 64;
/// Unit in which bytes in flight are counted out.
pub const FLIGHT_UNIT_BYTES: usize = 1 << 10;

/// Sessions of one page of a list.
pub const SESSIONS_PAGE_MAX: u32 = 1000;
/// Encoded bytes of one page of a list: below what clients take by default (4 MiB).
pub const SESSIONS_PAGE_BYTES_MAX: usize = 3 << 20;
/// Runs in one answer about the history of compaction.
pub const RUNS_PAGE_MAX: u32 = 1000;
/// Problems in one answer of a check.
pub const PROBLEMS_MAX: usize = 1000;

/// Compactions, checks and backups at once.
pub const LONG_JOBS_MAX: usize = 4;
/// How often a long job tells how far it is, milliseconds.
pub const PROGRESS_INTERVAL_MS: u64 = 100;

/// Requests of the tunnel that may come more than once and are carried out at once; further ones wait.
pub const IDEMPOTENT_MAX: usize = 64;
/// Bytes of the answer of such a request, which is whole before any of it goes out.
pub const IDEMPOTENT_ANSWER_BYTES_MAX: usize = 16 << 20;
/// An answer longer than this is *large* and needs one of `IDEMPOTENT_LARGE_MAX` slots.
pub const IDEMPOTENT_SMALL_BYTES_MAX: usize = 64 << 10;
/// Large answers held at once until they are sent; an eighth of the default memory limit.
pub const IDEMPOTENT_LARGE_MAX: usize = 4;
/// Calls that wait for such a slot; further ones are refused.
pub const IDEMPOTENT_LARGE_WAITING_MAX: usize = 64;
/// How long such a call waits for a slot; then it is refused. Longer than `IDEMPOTENT_UNREAD_MS_MAX`, so
/// that an unread answer gives its slot up first.
pub const IDEMPOTENT_LARGE_WAIT_MS_MAX: u64 = 45_000;
/// A large answer of which nothing is taken for so long is given up.
pub const IDEMPOTENT_UNREAD_MS_MAX: u64 = 30_000;
/// Size of the pieces in which a buffered answer is sent.
pub const IDEMPOTENT_PIECE_BYTES: usize = 16 << 10;
/// Such a request is given up when its answer has not begun after this: longer than a relay tries.
pub const IDEMPOTENT_BEGIN_MS_MAX: u64 = 600_000;
/// One whose answer has begun, when it is not whole after this, for streams may go on for ever:
/// longer than a relay waits for one delivery.
pub const IDEMPOTENT_END_MS_MAX: u64 = 90_000;

/// How long `betcode-daemon enrol` waits for the relay, from dialling it to its answer.
pub const ENROL_MS_MAX: u64 = 30_000;

/// HTTP/2 streams of one connection.
pub const STREAMS_PER_CONNECTION_MAX: u32 = 256;
/// Time within which a new connection must have sent its HTTP/2 preface.
pub const PREFACE_MS_MAX: u64 = 10_000;
/// Length of that preface.
pub const PREFACE_BYTES: usize = 24;
/// Time between two pings to a silent peer.
pub const KEEPALIVE_INTERVAL_MS: u64 = 20_000;
/// Time within which the peer must answer one.
pub const KEEPALIVE_TIMEOUT_MS: u64 = 10_000;
/// Bytes of a request's headers.
pub const HEADER_BYTES_MAX: u32 = 16 << 10;

/// Files that connections leave for the store, logs and listeners.
pub const FILES_RESERVED: usize = 256;
/// Grace after a connection's maximum age; then it is cut off.
pub const CONNECTION_GRACE_MS: u64 = 60_000;
/// A look at the store that takes longer than this is given up: longer than a write waits for another
/// process's.
pub const PROBE_MS_MAX: u64 = 10_000;
/// Looks of which one writes, when no client's append did.
pub const PROBES_PER_WRITE: u64 = 12;

/// How often sessions that are followed are looked at for what other processes did.
pub const FOLLOW_POLL_MS: u64 = 1_000;
/// A session counts as active for so long after its last append.
pub const SESSION_ACTIVE_MS: u64 = 60_000;
/// How long `CompactSession` waits for a run that is under way.
pub const COMPACTION_TURN_MS_MAX: u64 = 30_000;
/// How often it looks whether that run has ended.
pub const COMPACTION_TURN_POLL_MS: u64 = 100;
/// When a refused client may try again.
pub const RETRY_MS: u32 = 250;
/// When a client of a daemon that stops may try again.
pub const DRAINING_RETRY_MS: u64 = 1_000;
/// Lines read before the place where a replay resumes, to know what was sent already.
pub const TRANSLATE_CONTEXT_LINES_MAX: u64 = 16_384;
/// The same, in bytes.
pub const TRANSLATE_CONTEXT_BYTES_MAX: usize = 16 << 20;
/// Lines of a session's beginning in which its first agent is looked for, to tell whether a later one
/// resumed the session; one that begins further on did.
pub const FIRST_INIT_LINES_MAX: u64 = 64;
/// Objects on one line that are translated.
pub const TRANSLATE_OBJECTS_PER_LINE_MAX: usize = 64;
/// Nesting of values that are handed on as `google.protobuf.Struct`: each takes three messages, and
/// readers of protobuf take 100 within each other.
pub const STRUCT_DEPTH_MAX: usize = 30;
/// Bytes of an event's text, and of what a tool is given: clients take 4 MiB for a message. A longer
/// text is told in parts.
pub const EVENT_BYTES_MAX: usize = 1 << 20;
/// What a tool is given, or the user is asked, when it is larger: so much of each text and name in it is
/// told, as of any id or name in an event,
pub const LARGE_INPUT_TEXT_BYTES_MAX: usize = 4 << 10;
/// Values of a large input that are told; the rest is cut.
pub const LARGE_INPUT_VALUES_MAX: usize = 256;
/// Bytes of a status's message: it stands in headers twice, percent-encoded and in the details, and
/// clients take 8 KiB of them.
pub const STATUS_TEXT_BYTES_MAX: usize = 1 << 10;
/// Bytes of each text of an `ErrorEvent`.
pub const REFUSAL_TEXT_BYTES_MAX: usize = 32 << 10;

/// Bytes read off an agent's pipe at once.
pub const OUTPUT_READ_BYTES: usize = 64 << 10;
/// Bytes of an agent's lines that are read ahead of the commit; then the agent waits.
pub const OUTPUT_AHEAD_BYTES_MAX: usize = 1 << 20;
/// The same, in lines.
pub const OUTPUT_AHEAD_LINES_MAX: usize = 4096;
/// Once an agent has exited, its pipe is read until nothing comes for this long.
pub const OUTPUT_REST_MS: u64 = 200;
/// Once an agent has exited, its pipe is read at the latest until this long after the exit.
pub const OUTPUT_REST_MS_MAX: u64 = 2_000;
/// Once an agent has exited, its pipe is read at most this far: a process that left the agent's group may
/// write for ever.
pub const OUTPUT_REST_BYTES_MAX: usize = 16 << 20;
/// First pause between attempts to record what an agent printed.
pub const RECORD_RETRY_MS_MIN: u64 = 50;
/// Longest pause between attempts to record what an agent printed; pauses double up to it.
pub const RECORD_RETRY_MS_MAX: u64 = 2_000;
/// Last lines of an agent's standard error that are kept for diagnostics.
pub const STDERR_LINES_MAX: usize = 20;
/// Bytes of each.
pub const STDERR_LINE_BYTES_MAX: usize = 1_000;
/// An agent whose turn was interrupted, and goes on, is killed after this.
pub const INTERRUPT_MS_MAX: u64 = 10_000;
/// An agent whose input was closed, and does not end, is killed after this.
pub const AGENT_END_MS_MAX: u64 = 5_000;
/// A message whose agent finds no place waits so long for one that is to make room: longer than that has
/// to end, and its last lines to be read.
pub const AGENT_PLACE_MS_MAX: u64 = AGENT_END_MS_MAX + OUTPUT_REST_MS_MAX + 1_000;
/// How often it looks for the place.
pub const AGENT_PLACE_POLL_MS: u64 = 20;
/// Messages of a session that wait for its turn to end.
pub const WAITING_MESSAGES_MAX: usize = 8;
/// Requests of an agent that are open at once; further ones are denied.
pub const OPEN_REQUESTS_MAX: usize = 64;
/// An answer to a request that nobody knows waits so long for lines that its client was told and the
/// conversation has not heard of yet.
pub const EARLY_ANSWER_MS_MAX: u64 = 1_000;
/// Tool calls of an agent that are known to be under way, and that are looked for on one line.
pub const TOOL_CALLS_MAX: usize = 64;
/// Grants of a session.
pub const GRANTS_MAX: usize = 256;
/// Bytes of a tool's name in a grant or a list of tools, and of a model's.
pub const TOOL_NAME_BYTES_MAX: usize = 256;
/// Tools that a client may allow from the start.
pub const ALLOWED_TOOLS_MAX: usize = 256;
/// Entries of a start's metadata.
pub const METADATA_ENTRIES_MAX: usize = 64;
/// Room that a prompt's line needs besides its content.
pub const PROMPT_OVERHEAD_BYTES: usize = 512;
/// The daemon's own events that wait for one stream; then the oldest are forgotten.
pub const MAILBOX_EVENTS_MAX: usize = 256;
/// Batches of lines whose time of reading is remembered.
pub const READ_TIMES_MAX: usize = 256;
/// What one conversation has to do and has not done yet; then those who ask it wait.
pub const CONVERSATION_INBOX_MAX: usize = 64;
/// Conversations that are remembered: with clients, an agent, or grants.
pub const CONVERSATIONS_MAX: u64 = 1024;
/// Times that a conversation is begun to be asked one thing: it may leave just when it is asked.
pub const CONVERSATION_ENTRIES_MAX: usize = 3;
/// How often a running agent's session is noted as in use.
pub const AGENT_TOUCH_MS: u64 = SESSION_ACTIVE_MS / 3;
/// Lines looked through, backwards, for the agent's own name of a conversation.
pub const AGENT_ID_LINES_MAX: u64 = 4_096;
/// When the daemon stops, a stream waits so long for what its conversation has to say of that.
pub const LAST_EVENTS_MS: u64 = 100;
/// When the daemon stops, agents that outlast the drain are killed; so long is left to record
/// what they had printed.
pub const LAST_LINES_MS: u64 = 2_000;

const _: () = {
    assert!(APPEND_SESSIONS_REMEMBERED_MAX > 2 * BATCHES_AHEAD_MAX);
    assert!(
        APPENDS_QUEUING_MAX
            + WRITES_MAX
            + FILE_LOOKS_MAX
            + READS_MAX_CEILING
            + LONG_JOBS_MAX
            + BLOCKING_THREADS_RESERVED
            <= BLOCKING_THREADS_MAX
    );
    assert!(IDEMPOTENT_UNREAD_MS_MAX < IDEMPOTENT_LARGE_WAIT_MS_MAX);
    assert!(IDEMPOTENT_LARGE_WAIT_MS_MAX < IDEMPOTENT_END_MS_MAX);
    assert!(FRAME_BYTES_MAX <= PART_BYTES_MAX);
    assert!(PART_BYTES_MAX + REQUEST_OVERHEAD_BYTES < 4 << 20);
    assert!(SESSIONS_PAGE_BYTES_MAX < 4 << 20);
    assert!(2 * LARGE_INPUT_VALUES_MAX * LARGE_INPUT_TEXT_BYTES_MAX + EVENT_BYTES_MAX < 4 << 20);
    assert!(3 * LARGE_INPUT_VALUES_MAX * (LARGE_INPUT_TEXT_BYTES_MAX + 64) < 4 << 20);
    assert!(3 * STRUCT_DEPTH_MAX < 98);
};
