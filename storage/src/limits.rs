//! Every bound of the engine's memory, time and sizes, in one place, with its unit in its name. What only
//! tunes the codec stands where it is used.
//!
//! A value that users may set has a default here and, where the value can do harm, a minimum
//! and a maximum. Relations that the engine relies on are asserted at compile time below.
//! MB is 10^6 bytes, MiB is 2^20, as in the capacity plan.

/// Size of a database page, fixed at birth. Small, because each commit writes whole pages to the
/// log, and because a segment leaves part of its last page empty.
pub const PAGE_BYTES: u32 = 4096;

/// Default bound of one message's payload.
pub const PAYLOAD_BYTES_MAX_DEFAULT: usize = 10 << 20;
/// The most that [`PAYLOAD_BYTES_MAX_DEFAULT`] may be raised to.
pub const PAYLOAD_BYTES_MAX_CEILING: usize = 100 << 20;

/// Length of a session id.
pub const SESSION_ID_BYTES_MAX: usize = 128;
/// Length of each text kept beside a session (name, model, directory, …); longer is refused.
pub const SESSION_TEXT_BYTES_MAX: usize = 4096;
/// Length of the preview of a session's last message; longer is cut at a character.
pub const PREVIEW_BYTES_MAX: usize = 160;
/// Highest sequence of a session: the low half of a message key.
pub const SEQUENCE_MAX: u64 = u32::MAX as u64;
/// Highest session key: the high half of a message key, sign bit excluded.
pub const SESSION_KEY_MAX: i64 = i32::MAX as i64;

/// Session keys of which none could be read, one behind the other, after which no further is looked
/// for: far more than stand on one page, and a second's work or two.
pub const DAMAGED_KEYS_IN_A_ROW_MAX: u32 = 200_000;

/// No size, count or duration that a row holds is above this: what says so is damaged.
pub const COUNTED_MAX: u64 = 1 << 50;

/// Messages of one append.
pub const BATCH_MESSAGES_MAX: usize = 16_384;
/// Payload bytes of one append, unless it is a single message.
pub const BATCH_BYTES_MAX: usize = 32 << 20;

/// Appends waiting for the writer.
pub const QUEUE_REQUESTS_MAX_DEFAULT: usize = 4096;
/// Bytes that a message counts for while it waits, besides its payload: what is known of it takes about
/// so much memory, and empty ones would be free otherwise.
pub const QUEUED_MESSAGE_BYTES: usize = 512;
/// Bytes waiting for the writer. A single larger request is let in when the queue is empty.
pub const QUEUE_BYTES_MAX_DEFAULT: usize = 64 << 20;
/// How long an append waits for room in the queue and for its turn.
pub const APPEND_WAIT_MS_MAX_DEFAULT: u64 = 10_000;
/// Requests that one commit takes together.
pub const GROUP_REQUESTS_MAX: usize = 1024;
/// Payload bytes that one commit takes together (a single larger request is committed alone).
pub const GROUP_BYTES_MAX: usize = 8 << 20;

/// How long a writer waits for another process's transaction.
pub const BUSY_WAIT_MS_MAX: u64 = 5_000;
/// How long a checkpoint that cuts the WAL waits for readers to leave it.
pub const CHECKPOINT_WAIT_MS_MAX: u64 = 50;
/// How far apart the attempts are to cut a log that a reader kept from being cut.
pub const LOG_CUT_MS_MIN: u64 = 1_000;
/// How often a lock is looked for, meanwhile.
pub const BUSY_POLL_MS: u64 = 1;
/// In the first milliseconds it is looked for this often, because most commits are over by then.
pub const BUSY_POLL_OFTEN_US: u64 = 100;
/// See [`BUSY_POLL_OFTEN_US`].
pub const BUSY_POLL_OFTEN_MS_MAX: u64 = 5;

/// Readers' connections.
pub const READERS_MAX_DEFAULT: u32 = 8;
/// How long a reader waits for a free connection.
pub const READER_WAIT_MS_MAX: u64 = 10_000;
/// While a reader waits for a connection, how often it looks whether one could not be opened.
pub const READER_POLL_MS: u64 = 50;
/// How long the last handle of a store waits for readers' connections to close.
pub const READER_CLOSE_MS_MAX: u64 = 2_000;
/// Page cache of the writer's connection.
pub const WRITER_CACHE_KIB: i64 = 16 << 10;
/// Page cache of each reader's connection.
pub const READER_CACHE_KIB: i64 = 2 << 10;
/// Payload bytes of one page of a replay (a single larger message makes a page of its own).
pub const READ_PAGE_BYTES_MAX: usize = 1 << 20;
/// Messages of one page of a replay.
pub const READ_PAGE_MESSAGES_MAX: usize = 4096;

/// How often a session is listed anew that compaction changed while it was inspected.
pub const INSPECTION_TRIES_MAX: u32 = 10;

/// A long replay decodes the next segment on a second thread, unless one of the two has more raw
/// bytes than this: memory, see `docs/design/codec.md`.
pub const READ_AHEAD_BYTES_MAX: u64 = 4 << 20;
/// A request for so few messages of a segment has only them put together, not all.
pub const PARTIAL_MESSAGES_MAX: u64 = 64;
/// Size of each buffer that a decoder keeps for the next segment.
pub const DECODER_BUFFER_BYTES_MAX: usize = 4 << 20;
/// Decoders kept for the next reader, each with buffers of a few MiB.
pub const DECODERS_KEPT_MAX: usize = 4;
/// Bases kept for the next reader, the ones used last.
pub const BASES_KEPT_MAX: usize = 2;

/// Raw bytes of a segment written by the quick tier.
pub const QUICK_SEGMENT_BYTES_MAX: usize = 1 << 20;
/// Raw bytes of a segment written by the deep tier: what a reader decodes, besides the base, for
/// one message. Reach beyond it is the base's (see `docs/design/codec.md`).
pub const DEEP_SEGMENT_BYTES_MAX: usize = 1 << 20;
/// Raw bytes of any segment: one message of the largest size allowed.
pub const SEGMENT_BYTES_MAX: usize = PAYLOAD_BYTES_MAX_CEILING;
/// Messages of a segment.
pub const SEGMENT_MESSAGES_MAX: usize = 16_384;

/// Streams of a segment from which long repeats may be taken out: a reader has them twice.
pub const COPIES_STREAM_BYTES_MAX: usize = 16 << 20;

/// The head of a base's text: what a reader decodes before any of its segments.
pub const BASE_HEAD_BYTES_MAX: usize = 2 << 20;
/// All of a base's text. Of what is behind the head a reader decodes as much as its segments copy,
/// in pieces of [`BASE_TAIL_CHUNK_BYTES`].
pub const BASE_TEXT_BYTES_MAX: usize = 8 << 20;
/// Of which behind the head.
pub const BASE_TAIL_BYTES_MAX: usize = BASE_TEXT_BYTES_MAX - BASE_HEAD_BYTES_MAX;
/// See [`BASE_TEXT_BYTES_MAX`].
pub const BASE_TAIL_CHUNK_BYTES: usize = 256 << 10;
/// Identifiers that a base holds.
pub const BASE_IDS_MAX: usize = 1 << 15;
/// Images and other decoded base64 that a base holds, in number …
pub const BASE_BLOBS_MAX: usize = 1024;
/// … each in bytes …
pub const BASE_BLOB_BYTES_MAX: usize = 4 << 20;
/// … and all together: every reader of one of the project's sessions holds them, compressed.
pub const BASE_BLOBS_BYTES_MAX: usize = 8 << 20;

/// A base is made from at most this many payload bytes, and made anew when its project has grown
/// by as many (or has doubled).
pub const BASE_SOURCE_BYTES_MAX: u64 = 64 << 20;
/// Less than this is not worth a base.
pub const BASE_SOURCE_BYTES_MIN: u64 = 8 << 10;
/// A base of more stored bytes is not written once more to put its pages in order: appends wait
/// while it is.
pub const BASE_REWRITE_BYTES_MAX: usize = 4 << 20;

/// The WAL is checkpointed when it has grown to this many bytes …
pub const WAL_BYTES_SOFT_MAX: u64 = 4 << 20;
/// … or to this share of the database's limit, when that is less, but never less than
/// [`WAL_BYTES_SOFT_MIN`].
pub const WAL_LIMIT_DIVISOR: u64 = 16;
/// See [`WAL_LIMIT_DIVISOR`].
pub const WAL_BYTES_SOFT_MIN: u64 = 1 << 20;
/// While no append waits it is checkpointed at this many bytes already: one that comes meanwhile waits for
/// a short checkpoint. Where appends always wait, fewer and longer ones take less of the disk.
pub const WAL_BYTES_LULL_MAX: u64 = 512 << 10;
/// What a checkpoint leaves of the WAL's file. More than the WAL usually grows to: commits that
/// overwrite are synced sooner than commits that make the file longer (a third to two thirds more
/// messages per second with all of it kept than with 1 MiB). Compaction cuts it to nothing.
pub const WAL_BYTES_KEPT_MAX: u64 = 2 * WAL_BYTES_SOFT_MAX;
/// File held in reserve and given up when the disk is full, so that compacting, deleting and
/// checkpointing still work: room for the WAL and for the largest usual segment.
pub const RESERVE_BYTES_DEFAULT: u64 = 16 << 20;
/// On a small disk the reserve is this part of what is free …
pub const RESERVE_FREE_DIVISOR: u64 = 4;
/// … and once it was given up it comes back with no less than this part of the whole disk …
pub const RESERVE_DISK_DIVISOR: u64 = 8;
/// … and never with less than this: room for the shared memory beside the file, for a few short
/// transactions, and so for the next room made.
pub const RESERVE_BYTES_MIN: u64 = 1 << 20;
/// How long after it could not be put aside the reserve is tried again, where the file system says that
/// there is room.
pub const RESERVE_RETRY_MS_MIN: u64 = 5_000;
/// A file of so many bytes that finds no room tells that the disk is full, or the user's quota.
pub const FULL_PROBE_BYTES: u64 = RESERVE_BYTES_MIN;
/// So much below the limit the last messages are refused, so that the pages which they add beside their
/// payloads do not pass it.
pub const ADMISSION_SLACK_BYTES: u64 = 4 * PAGE_BYTES as u64;
/// While the reserve is given up, new messages are taken only if the file has this much room
/// within itself: what they leave must do for compacting.
pub const FULL_DISK_FREE_BYTES_MIN: u64 = 4 * RESERVE_BYTES_MIN;
/// Free pages given back in one transaction.
pub const RECLAIM_PAGES_PER_STEP: u32 = 256;
/// Rows deleted in one transaction when a session is removed.
pub const DELETE_ROWS_PER_STEP: u32 = 2048;
/// Payload or encoded bytes deleted in one transaction (a single larger row is deleted alone): SQLite
/// goes through all pages of what it deletes, and appends wait meanwhile.
pub const DELETE_BYTES_PER_STEP: u64 = GROUP_BYTES_MAX as u64;

/// While others append a run of compaction leaves the writer to them for so many times as long as
/// each piece of its maintenance took …
pub const MAINTENANCE_REST_TIMES: u32 = 20;
/// … near the database's limit, where room is wanted sooner, for so many times as long only …
pub const MAINTENANCE_REST_TIMES_NEAR_LIMIT: u32 = MAINTENANCE_REST_TIMES / 5;
/// … but for no longer than this …
pub const MAINTENANCE_REST_MS_MAX: u64 = 250;
/// … and so long after the last append nobody is said to append.
pub const APPENDING_MS_MAX: u64 = 1_000;

/// How many looks at the lock other processes get between two steps of giving pages back or of deleting.
pub const STEP_REST_POLLS: u64 = 3;

/// Default size that the database may reach.
pub const DB_BYTES_MAX_DEFAULT: u64 = 1_000_000_000;
/// Smallest limit that makes sense: an empty store and a WAL.
pub const DB_BYTES_MAX_FLOOR: u64 = 1_000_000;
/// The footprint that the capacity plan hopes for.
pub const FOOTPRINT_TARGET: f64 = 0.30;
/// A gap between two messages counts as active time up to this long.
pub const ACTIVE_GAP_MS_MAX: i64 = 5 * 60 * 1000;
/// A turn of an imported stream counts as active time up to this long.
pub const TURN_MS_MAX: i64 = 24 * 60 * 60 * 1000;
/// A line that says it is older tells no time: 2020 began then, in Unix milliseconds, and no agent
/// wrote before.
pub const SAID_MS_MIN: i64 = 1_577_836_800_000;
/// Nor does a line that says it was written longer after its arrival than this, which allows for clocks
/// that differ by a time zone.
pub const SAID_AFTER_ARRIVAL_MS_MAX: i64 = 24 * 60 * 60 * 1000;
/// Distinct message types that growth tells apart; further ones count as `(other)`.
pub const MESSAGE_TYPES_MAX: usize = 256;
/// Length of an agent's id of a message; what is longer is none.
pub const MESSAGE_ID_BYTES_MAX: usize = 256;
/// Length of a message type's name; longer counts as `(other)`.
pub const MESSAGE_TYPE_BYTES_MAX: usize = 64;
/// Blocks of a message among which its first text is looked for.
pub const CONTENT_BLOCKS_MAX: usize = 256;
/// zstd's levels, of which any may be asked for.
pub const ENCODE_LEVEL_MIN: i32 = 1;
/// See [`ENCODE_LEVEL_MIN`].
pub const ENCODE_LEVEL_MAX: i32 = 22;
/// How often background compaction looks at the store at most, however near the limit it is: each look takes
/// the lease and reads the sessions' rows.
pub const COMPACTION_INTERVAL_MS_MIN: u64 = 10;
/// Threads that encode in one run of compaction.
pub const COMPACTION_THREADS_MAX: usize = 4;
/// Raw bytes that a run takes apart or encodes ahead of what it has swapped in; a bigger step is alone.
/// Memory: a step takes several times its raw bytes.
pub const COMPACTION_AHEAD_BYTES_MAX: u64 = 4 << 20;
/// Problems that SQLite's own check of the file reports.
pub const STRUCTURE_PROBLEMS_MAX: u32 = 100;
/// Problems of a kind that a check lists of one session; how many more there are is told as one.
pub const SESSION_PROBLEMS_MAX: usize = 1000;
/// Capacity events kept for those who ask later.
pub const EVENTS_KEPT_MAX: usize = 256;
/// Sessions that the writer remembers between commits; beyond it all are forgotten and read again when
/// needed.
pub const CACHED_SESSIONS_MAX: usize = 4096;
/// Compaction runs kept in the history.
pub const COMPACTION_RUNS_KEPT_MAX: u32 = 1000;

const _: () = {
    assert!(PAYLOAD_BYTES_MAX_DEFAULT <= PAYLOAD_BYTES_MAX_CEILING);
    assert!(PAYLOAD_BYTES_MAX_CEILING <= SEGMENT_BYTES_MAX);
    assert!(QUICK_SEGMENT_BYTES_MAX <= DEEP_SEGMENT_BYTES_MAX);
    assert!(DEEP_SEGMENT_BYTES_MAX <= SEGMENT_BYTES_MAX);
    // A segment's length fields are 32 bits wide.
    assert!(SEGMENT_BYTES_MAX < u32::MAX as usize / 2);
    assert!(
        PAYLOAD_BYTES_MAX_CEILING < 1_000_000_000,
        "SQLite's own bound of a value"
    );
    assert!(RESERVE_BYTES_DEFAULT >= WAL_BYTES_SOFT_MAX + DEEP_SEGMENT_BYTES_MAX as u64);
};
