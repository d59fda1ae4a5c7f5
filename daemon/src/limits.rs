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
/// A line from this length on is long: it counts, with what is made of it, against `LONG_LINES_BYTES_MAX`
/// until its client has it.
pub const LONG_LINE_BYTES_MIN: usize = 128 << 10;
/// Bytes of all long lines and of what is made of them; then their replays wait.
pub const LONG_LINES_BYTES_MAX: usize = 64 << 20;
/// A replay of long lines that waits longer than this for others to be read ends.
pub const LONG_LINES_WAIT_MS_MAX: u64 = 60_000;
/// Unit in which the bytes of long lines are counted.
pub const LONG_LINES_UNIT_BYTES: usize = 1 << 10;
/// Lines whose events are handed to a client together have so many bytes at most; a longer line is
/// handed on alone.
pub const LINES_TOGETHER_BYTES_MAX: usize = 64 << 10;
/// Bytes that a request may have besides its payloads.
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
/// Checks of files that clients name, at once.
pub const FILE_CHECKS_MAX: usize = 32;
/// Reads at once, the most that a setting may ask for.
pub const READS_MAX_CEILING: usize = 64;
/// Threads for calls that block.
pub const BLOCKING_THREADS_MAX: usize = 512;
/// Of `BLOCKING_THREADS_MAX`, what is left over for the probe of the store, and for the start and end of parts.
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
/// Runs in one answer about the history of compaction, when the caller does not say how many.
pub const RUNS_PAGE_DEFAULT: u32 = 100;
/// Longest pause of a replay that keeps a pace.
pub const PACE_PAUSE_MS_MAX: u64 = 60_000;
/// Runs in one answer about the history of compaction.
pub const RUNS_PAGE_MAX: u32 = 1000;
/// Problems in one answer of a check.
pub const PROBLEMS_MAX: usize = 1000;

/// Compactions, checks and backups at once.
pub const LONG_JOBS_MAX: usize = 4;
/// How often a long job reports its progress, milliseconds.
pub const PROGRESS_INTERVAL_MS: u64 = 100;

/// Requests with an idempotency key that are carried out at once; further ones wait.
pub const IDEMPOTENT_MAX: usize = 64;
/// Bytes of the answer of a request with an idempotency key, which is whole before any of it goes out.
pub const IDEMPOTENT_ANSWER_BYTES_MAX: usize = 16 << 20;
/// An answer longer than this is *large* and needs one of `IDEMPOTENT_LARGE_MAX` slots.
pub const IDEMPOTENT_SMALL_BYTES_MAX: usize = 64 << 10;
/// Large answers held at once until they are sent; an eighth of the default memory limit.
pub const IDEMPOTENT_LARGE_MAX: usize = 4;
/// Calls that wait for one of the `IDEMPOTENT_LARGE_MAX` slots; further ones are refused.
pub const IDEMPOTENT_LARGE_WAITING_MAX: usize = 64;
/// How long a call waits for one of the `IDEMPOTENT_LARGE_MAX` slots; then it is refused. Longer than `IDEMPOTENT_UNREAD_MS_MAX`, so
/// that an unread answer gives its slot up first.
pub const IDEMPOTENT_LARGE_WAIT_MS_MAX: u64 = 45_000;
/// A large answer of which nothing is taken for so long is given up.
pub const IDEMPOTENT_UNREAD_MS_MAX: u64 = 30_000;
/// Size of the pieces in which a buffered answer is sent.
pub const IDEMPOTENT_PIECE_BYTES: usize = 16 << 10;
/// A request with an idempotency key is given up when its answer has not begun after this: longer than a relay
/// tries.
pub const IDEMPOTENT_BEGIN_MS_MAX: u64 = 600_000;
/// A request with an idempotency key is given up when its answer has begun and is not whole after this, because
/// streams may go on for ever. Longer than a relay waits for one delivery.
pub const IDEMPOTENT_END_MS_MAX: u64 = 90_000;
/// Idempotency keys whose first request is remembered; the oldest give way. Ten times what one machine's buffer
/// holds at a relay.
pub const IDEMPOTENCY_KEYS_MAX: usize = 10_000;

/// Bound of the first pause before the relay is dialled again; each pause is drawn at random below its bound.
pub const TUNNEL_PAUSE_MS_MIN: u64 = 200;
/// Bound of the longest pause before the relay is dialled again; bounds double up to it.
pub const TUNNEL_PAUSE_MS_MAX: u64 = 30_000;
/// Bound of the longest pause while the relay restarts, as it said when it sent the daemon away.
pub const TUNNEL_RESTART_PAUSE_MS_MAX: u64 = 3_000;
/// How long after it sent the daemon away the relay counts as restarting: a drain, and time to start.
pub const TUNNEL_RESTART_MS_MAX: u64 = 120_000;
/// Pause after a newer tunnel of this machine took over, or the relay shut the machine out.
pub const TUNNEL_REPLACED_PAUSE_MS: u64 = 60_000;
/// How often the daemon asks, over a short connection of its own, which relay it reaches now.
pub const TUNNEL_PROBE_INTERVAL_MS: u64 = 60_000;
/// How often the relay is asked whether it is still there.
pub const TUNNEL_KEEPALIVE_INTERVAL_MS: u64 = 20_000;
/// How long the relay may take to answer that.
pub const TUNNEL_KEEPALIVE_TIMEOUT_MS: u64 = 10_000;
/// How long dialling the relay, TLS and greeting may take.
pub const TUNNEL_DIAL_MS_MAX: u64 = 10_000;
/// Calls on a tunnel at once: more than the relay makes, so that it refuses further ones, not the connection.
pub const TUNNEL_CALLS_MAX: u32 = 512;
/// Bytes of one call of a tunnel that are taken in before the service takes them out.
pub const TUNNEL_STREAM_WINDOW_BYTES: u32 = 128 << 10;
/// Cancelled streams that hyper may hold unprocessed before it closes a tunnel, its protection against rapid
/// resets. High, because one tunnel carries many clients.
pub const TUNNEL_RESETS_PENDING_MAX: usize = 4096;

/// How long `betcode-daemon enrol` waits for the relay, from dialling it to its answer.
pub const ENROL_MS_MAX: u64 = 30_000;
/// Bytes of standard input in which `betcode-daemon enrol` looks for a code.
pub const ENROLMENT_CODE_BYTES_MAX: u64 = 4096;
/// How long the daemon may take to answer `betcode-daemon budget`: it keeps these figures at hand.
pub const BUDGET_ANSWER_MS_MAX: u64 = 2_000;

/// Connections that are accepted and not yet taken by the server.
pub const ACCEPTED_CONNECTIONS_MAX: usize = 64;
/// Pause after a connection could not be accepted: there may be no file descriptors left.
pub const ACCEPT_PAUSE_MS: u64 = 50;
/// HTTP/2 streams of one connection.
pub const STREAMS_PER_CONNECTION_MAX: u32 = 256;
/// Time within which a new connection must have sent its HTTP/2 preface.
pub const PREFACE_MS_MAX: u64 = 10_000;
/// Length of HTTP/2's preface.
pub const PREFACE_BYTES: usize = 24;
/// Time between two pings to a silent peer.
pub const KEEPALIVE_INTERVAL_MS: u64 = 20_000;
/// Time within which a silent peer must answer a ping.
pub const KEEPALIVE_TIMEOUT_MS: u64 = 10_000;
/// Bytes of a request's headers.
pub const HEADER_BYTES_MAX: u32 = 16 << 10;
/// How long before a call's deadline it is answered: the transport's own timer, at the deadline, would answer
/// CANCELLED.
pub const DEADLINE_LEAD_MS: u64 = 1;

/// Files that connections leave for the store, logs and listeners.
pub const FILES_RESERVED: usize = 256;
/// Grace after a connection's maximum age; then it is cut off.
pub const CONNECTION_GRACE_MS: u64 = 60_000;
/// A probe of the store that takes longer than this counts as failed: longer than a write waits for another
/// process's.
pub const PROBE_MS_MAX: u64 = 10_000;
/// Of so many probes of the store one writes, unless a client's append did.
pub const PROBES_PER_WRITE: u64 = 12;

/// Times that a daemon which starts tries to lock its store: programs that look for a daemon hold the lock for a
/// moment.
pub const LOCK_ATTEMPTS_MAX: u32 = 5;
/// Pause between two attempts to lock the store.
pub const LOCK_ATTEMPT_INTERVAL_MS: u64 = 20;
/// How often the store is asked whether other processes have appended to sessions that are followed.
pub const FOLLOW_POLL_MS: u64 = 1_000;
/// Refusals by one limit are logged at most once in so long.
pub const LIMIT_LOG_INTERVAL_MS: u64 = 60_000;
/// A session counts as active for so long after its last append.
pub const SESSION_ACTIVE_MS: u64 = 60_000;
/// How long `CompactSession` waits for a run that is under way.
pub const COMPACTION_TURN_MS_MAX: u64 = 30_000;
/// How often `CompactSession` looks whether the run before it has ended.
pub const COMPACTION_TURN_POLL_MS: u64 = 100;
/// When a refused client may try again.
pub const RETRY_MS: u32 = 250;
/// When a client of a daemon that stops may try again.
pub const RETRY_DRAINING_MS: u64 = 1_000;
/// Lines read before the place where a replay resumes, to know what was sent already.
pub const TRANSLATE_CONTEXT_LINES_MAX: u64 = 16_384;
/// Bytes read before the place where a replay resumes, to know what was sent already.
pub const TRANSLATE_CONTEXT_BYTES_MAX: usize = 16 << 20;
/// Lines of a session's beginning in which its first agent is looked for, to know whether a later one
/// resumed the session; one that begins further on did.
pub const FIRST_INIT_LINES_MAX: u64 = 64;
/// Objects on one line that are translated.
pub const TRANSLATE_OBJECTS_PER_LINE_MAX: usize = 64;
/// Nesting of values that are handed on as `google.protobuf.Struct`: each takes three messages, and
/// readers of protobuf take 100 within each other.
pub const STRUCT_DEPTH_MAX: usize = 30;
/// Bytes of a tool call's description that is made from what the tool is given.
pub const DESCRIPTION_BYTES_MAX: usize = 160;
/// Bytes of an event's text, and of a tool's input: clients take 4 MiB for a message. A longer text is sent in
/// parts.
pub const EVENT_BYTES_MAX: usize = 1 << 20;
/// Bytes that are sent of each text and name in a tool's input, or in a question to the user, that is larger than
/// `EVENT_BYTES_MAX`, and of any id or name in an event.
pub const LARGE_INPUT_TEXT_BYTES_MAX: usize = 4 << 10;
/// Values that are sent of a tool's input that is larger than `EVENT_BYTES_MAX`; the rest is cut.
pub const LARGE_INPUT_VALUES_MAX: usize = 256;
/// Bytes of each text of an `ErrorEvent`.
pub const REFUSAL_TEXT_BYTES_MAX: usize = 32 << 10;

/// Bytes read off an agent's pipe at once.
pub const OUTPUT_READ_BYTES: usize = 64 << 10;
/// Bytes of an agent's lines that are read ahead of the commit; then the agent waits.
pub const OUTPUT_AHEAD_BYTES_MAX: usize = 1 << 20;
/// Lines of an agent that are read ahead of the commit; then the agent waits.
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
/// Bytes of each line of an agent's standard error that is kept.
pub const STDERR_LINE_BYTES_MAX: usize = 1_000;
/// An agent whose turn was interrupted, and goes on, is killed after this.
pub const INTERRUPT_MS_MAX: u64 = 10_000;
/// An agent whose input was closed, and does not end, is killed after this.
pub const AGENT_END_MS_MAX: u64 = 5_000;
/// How long a message whose agent finds no free slot waits for an idle agent to give up its own: longer than an
/// agent has to end, and its last lines to be read.
pub const AGENT_PLACE_MS_MAX: u64 = AGENT_END_MS_MAX + OUTPUT_REST_MS_MAX + 1_000;
/// How often a message whose agent finds no free slot looks for one.
pub const AGENT_PLACE_POLL_MS: u64 = 20;
/// After how long it asks another idle agent: the one that it asked takes long, or its slot went to somebody else.
pub const AGENT_PLACE_ASK_MS: u64 = 2_000;
/// Messages of a session that wait for its turn to end.
pub const WAITING_MESSAGES_MAX: usize = 8;
/// Requests of an agent that are open at once; further ones are denied.
pub const OPEN_REQUESTS_MAX: usize = 64;
/// How long an answer to a request that the conversation does not know waits for it: clients get a line at its
/// commit, which may be before the conversation hears of it.
pub const EARLY_ANSWER_MS_MAX: u64 = 1_000;
/// Tool calls of an agent that are known to be under way, and that are looked for on one line.
pub const TOOL_CALLS_MAX: usize = 64;
/// Names of an agent's tools that are sent to clients.
pub const AGENT_TOOLS_MAX: usize = 512;
/// Grants of a session.
pub const GRANTS_MAX: usize = 256;
/// Bytes of a tool's name in a grant or a list of tools, and of a model's.
pub const TOOL_NAME_BYTES_MAX: usize = 256;
/// Tools that a client may allow from the start.
pub const ALLOWED_TOOLS_MAX: usize = 256;
/// Entries of a start's metadata.
pub const METADATA_ENTRIES_MAX: usize = 64;
/// Bytes that a prompt's line needs besides its content.
pub const PROMPT_OVERHEAD_BYTES: usize = 512;
/// How long the end of a client's replay is known: a conversation that it begins meanwhile goes on there.
pub const REPLAY_NOTED_MS: u64 = 60_000;
/// Ends of replays that are known; then the oldest are forgotten.
pub const REPLAYS_NOTED_MAX: usize = 1024;
/// Bytes of the name that a relay gives a connection; a longer one is not the relay's, and counts as none.
pub const CONNECTION_NAME_BYTES_MAX: usize = 64;
/// The daemon's own events that wait for one stream; then the oldest are forgotten.
pub const MAILBOX_EVENTS_MAX: usize = 256;
/// Batches of lines whose time of reading is remembered.
pub const READ_TIMES_MAX: usize = 256;
/// Commands that one conversation has not carried out yet; then those who send it more wait.
pub const CONVERSATION_INBOX_MAX: usize = 64;
/// Conversations that are remembered: with clients, an agent, or grants.
pub const CONVERSATIONS_MAX: u64 = 1024;
/// Times that a conversation is begun to be asked one thing: it may leave just when it is asked.
pub const CONVERSATION_ENTRIES_MAX: usize = 3;
/// How often a running agent's session is noted as in use.
pub const AGENT_TOUCH_MS: u64 = SESSION_ACTIVE_MS / 3;
/// Lines looked through, backwards, for the agent's own name of a conversation.
pub const AGENT_ID_LINES_MAX: u64 = 4_096;
/// How long a stream, when the daemon stops, waits for its conversation's last events.
pub const LAST_EVENTS_MS: u64 = 100;
/// How long there is, when the daemon stops, to record the last lines of agents that outlasted the drain and were
/// killed.
pub const LAST_LINES_MS: u64 = 2_000;
/// How long a scrape of the metrics waits for what is read from the store. Prometheus gives up after 10 s.
pub const SCRAPE_READ_MS_MAX: u64 = 5_000;

const _: () = {
    assert!(APPEND_SESSIONS_REMEMBERED_MAX > 2 * BATCHES_AHEAD_MAX);
    assert!(
        APPENDS_QUEUING_MAX
            + WRITES_MAX
            + FILE_CHECKS_MAX
            + READS_MAX_CEILING
            + LONG_JOBS_MAX
            + BLOCKING_THREADS_RESERVED
            <= BLOCKING_THREADS_MAX
    );
    assert!(TUNNEL_PAUSE_MS_MIN <= TUNNEL_RESTART_PAUSE_MS_MAX);
    assert!(TUNNEL_RESTART_PAUSE_MS_MAX <= TUNNEL_PAUSE_MS_MAX);
    assert!(IDEMPOTENT_UNREAD_MS_MAX < IDEMPOTENT_LARGE_WAIT_MS_MAX);
    assert!(IDEMPOTENT_LARGE_WAIT_MS_MAX < IDEMPOTENT_END_MS_MAX);
    assert!(FRAME_BYTES_MAX <= PART_BYTES_MAX);
    assert!(PART_BYTES_MAX + REQUEST_OVERHEAD_BYTES < 4 << 20);
    assert!(SESSIONS_PAGE_BYTES_MAX < 4 << 20);
    assert!(2 * LARGE_INPUT_VALUES_MAX * LARGE_INPUT_TEXT_BYTES_MAX + EVENT_BYTES_MAX < 4 << 20);
    assert!(3 * LARGE_INPUT_VALUES_MAX * (LARGE_INPUT_TEXT_BYTES_MAX + 64) < 4 << 20);
    assert!(3 * STRUCT_DEPTH_MAX < 98);
};
