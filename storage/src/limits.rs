//! The bounds of memory, time and sizes that users, callers or the format depend on, in one place, with their
//! units in their names. Intervals of single loops, and values that only tune the codec, are beside the code
//! that uses them.
//!
//! What callers may need is public: the defaults and bounds of what they may set, and those of what they hand in and
//! get back. A value that users may set has a default here and, where the value can do harm, a minimum
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
pub(crate) const SESSION_KEY_MAX: i64 = i32::MAX as i64;

/// In a damaged file the search for sessions ends after this many consecutive keys that cannot be read. One
/// page holds far fewer; trying them all takes a second or two.
pub(crate) const DAMAGED_KEYS_IN_A_ROW_MAX: u32 = 200_000;

/// The largest size, count or duration that a row may hold. A larger one is treated as damage, so that a
/// sum of a few cannot overflow.
pub(crate) const COUNTED_MAX: u64 = 1 << 50;

/// Messages of one append.
pub const BATCH_MESSAGES_MAX: usize = 16_384;
/// Payload bytes of one append, unless it is a single message.
pub const BATCH_BYTES_MAX: usize = 32 << 20;

/// Appends waiting for the writer.
pub const QUEUE_REQUESTS_MAX_DEFAULT: usize = 4096;
/// Bytes that a waiting message counts for besides its payload. What is known of it takes about so much
/// memory; without this, empty messages would count for nothing.
pub const QUEUED_MESSAGE_BYTES: usize = 512;
/// Bytes waiting for the writer. A single larger request is let in when the queue is empty.
pub const QUEUE_BYTES_MAX_DEFAULT: usize = 64 << 20;
/// How long an append waits for room in the queue and for its turn.
pub const APPEND_WAIT_MS_MAX_DEFAULT: u64 = 10_000;
/// Requests that one commit takes together.
pub(crate) const GROUP_REQUESTS_MAX: usize = 1024;
/// Payload bytes that one commit takes together (a single larger request is committed alone).
pub(crate) const GROUP_BYTES_MAX: usize = 8 << 20;

/// After this time without work the writer tidies up: it moves the log into the main file, and restores the
/// reserve.
pub(crate) const WRITER_IDLE_MS_MIN: u64 = 200;
/// How often an idle writer that has nothing left to tidy up checks what other processes did. Each check wakes the
/// processor.
pub(crate) const WRITER_TIDY_AGAIN_MS: u64 = 10_000;
/// How long a writer waits for another process's transaction.
pub const BUSY_WAIT_MS_MAX: u64 = 5_000;
/// How long a checkpoint that truncates the WAL waits for readers to leave it.
pub(crate) const CHECKPOINT_WAIT_MS_MAX: u64 = 50;
/// Time between two attempts to truncate a WAL that a reader still uses.
pub(crate) const LOG_CUT_MS_MIN: u64 = 1_000;
/// While a connection waits for a lock, how often it tries, after the first [`BUSY_POLL_OFTEN_MS_MAX`].
pub(crate) const BUSY_POLL_MS: u64 = 1;
/// How often a connection tries in the first [`BUSY_POLL_OFTEN_MS_MAX`] that it waits for a lock. Most
/// commits take less than that.
pub(crate) const BUSY_POLL_OFTEN_US: u64 = 100;
/// How long a connection that waits for a lock tries as often as [`BUSY_POLL_OFTEN_US`] says.
pub(crate) const BUSY_POLL_OFTEN_MS_MAX: u64 = 5;

/// Readers' connections.
pub const READERS_MAX_DEFAULT: u32 = 8;
/// The most that [`READERS_MAX_DEFAULT`] may be raised to. Each has its page cache and three open files.
pub const READERS_MAX_CEILING: u32 = 256;
/// How long a reader waits for a free connection.
pub const READER_WAIT_MS_MAX: u64 = 10_000;
/// While a reader waits for a connection, how often it looks whether one could not be opened.
pub(crate) const READER_POLL_MS: u64 = 50;
/// How long the last handle of a store waits for readers' connections to close.
pub const READER_CLOSE_MS_MAX: u64 = 2_000;
/// Page cache of the writer's connection.
pub(crate) const WRITER_CACHE_KIB: i64 = 16 << 10;
/// Page cache of each reader's connection.
pub(crate) const READER_CACHE_KIB: i64 = 2 << 10;
/// Payload bytes of one page of a replay (a single larger message makes a page of its own).
pub const READ_PAGE_BYTES_MAX: usize = 1 << 20;
/// Messages of one page of a replay.
pub const READ_PAGE_MESSAGES_MAX: usize = 4096;

/// How often an inspection starts again because compaction changed the session meanwhile.
pub(crate) const INSPECTION_TRIES_MAX: u32 = 10;

/// A long replay decodes the next segment on a second thread, unless that or the current one has more raw
/// bytes than this. It bounds memory, see `docs/design/codec.md`.
pub(crate) const READ_AHEAD_BYTES_MAX: u64 = 4 << 20;
/// If so few messages of a segment are asked for, only they are put together, not all.
pub(crate) const PARTIAL_MESSAGES_MAX: u64 = 64;
/// Threads of a store that decode ahead at once; one less than there are cores if that is fewer.
pub(crate) const READ_AHEAD_THREADS_MAX: usize = 8;
/// Size of each buffer that a decoder keeps for the next segment.
pub(crate) const DECODER_BUFFER_BYTES_MAX: usize = 4 << 20;
/// Decoders kept for the next reader, each with buffers of a few MiB.
pub(crate) const DECODERS_KEPT_MAX: usize = 4;
/// Bases kept for the next reader, the ones used last.
pub(crate) const BASES_KEPT_MAX: usize = 2;

/// Raw bytes of a segment written by the quick tier.
pub const QUICK_SEGMENT_BYTES_MAX: usize = 1 << 20;
/// Raw bytes of a segment written by the deep tier: what a reader decodes, besides the base, for
/// one message. Repeats from farther away are found in the base (see `docs/design/codec.md`).
pub const DEEP_SEGMENT_BYTES_MAX: usize = 1 << 20;
/// Raw bytes of any segment: one message of the largest size allowed.
pub const SEGMENT_BYTES_MAX: usize = PAYLOAD_BYTES_MAX_CEILING;
/// Messages of a segment.
pub const SEGMENT_MESSAGES_MAX: usize = 16_384;

/// Encoded bytes of a segment that may have a tail. In longer ones a tail would save a few per cent at most, and
/// cost a read of one more page.
pub(crate) const SEGMENT_WITH_TAIL_BYTES_MAX: usize = 12 << 10;
/// Bytes of a segment's tail. With more, they leave less of an overflow page empty than their pieces' rows take.
pub(crate) const SEGMENT_TAIL_BYTES_MAX: usize = 3572;
/// Bytes of a piece of a tail: eight fill a page.
pub(crate) const SEGMENT_TAIL_PIECE_BYTES: usize = 492;

/// The largest main stream of a segment that may be packed. A reader holds a packed stream twice.
pub(crate) const COPIES_STREAM_BYTES_MAX: usize = 16 << 20;
/// Bytes that a segment's main stream may have beyond twice the payload bytes and 16 for each message.
pub(crate) const MAIN_STREAM_SLACK_BYTES: usize = 64 << 10;
/// Columns of a segment.
pub(crate) const SEGMENT_COLUMNS_MAX: usize = 8192;
/// Steps of all shapes of a segment together, and shapes of a segment: one less than this of each. That is
/// many times what one line has (see [`JSON_TOKENS_MAX`]), or what the lines of a few MiB have together.
/// An encoder that meets more keeps its lines whole.
pub(crate) const SHAPE_STEPS_MAX: usize = 1 << 23;
/// Arrays and objects inside each other, in a line that is split. A deeper one is kept whole, because
/// the decoder recurses as deep as arrays nest.
pub(crate) const JSON_DEPTH_MAX: usize = 64;
/// Tokens of a line that is split. A line with more is kept whole: its tokens would take more memory than it.
pub(crate) const JSON_TOKENS_MAX: usize = 1 << 20;
/// Length of a key in a line that is split. A line with a longer one is kept whole: the elements of an
/// array repeat its key in their shapes.
pub(crate) const JSON_KEY_BYTES_MAX: usize = 2 << 10;
/// Window of the largest zstd frame, as a power of two. It holds a message of the largest size allowed.
pub(crate) const ZSTD_WINDOW_LOG_MAX: u32 = 27;

/// The head of a base's text: what a reader decodes before any of its segments.
pub const BASE_HEAD_BYTES_MAX: usize = 2 << 20;
/// All of a base's text, head and tail. Of the tail a reader decodes the chunks of
/// [`BASE_TAIL_CHUNK_BYTES`] that its segments copy from.
pub const BASE_TEXT_BYTES_MAX: usize = 8 << 20;
/// The tail of a base's text: what comes after its head.
pub(crate) const BASE_TAIL_BYTES_MAX: usize = BASE_TEXT_BYTES_MAX - BASE_HEAD_BYTES_MAX;
/// The pieces in which the tail of a base's text is compressed.
pub const BASE_TAIL_CHUNK_BYTES: usize = 256 << 10;
/// Identifiers that a base holds.
pub const BASE_IDS_MAX: usize = 1 << 15;
/// Blobs of a base: images and other decoded base64.
pub const BASE_BLOBS_MAX: usize = 1024;
/// Size of one blob of a base, decompressed.
pub(crate) const BASE_BLOB_BYTES_MAX: usize = 4 << 20;
/// Size of all blobs of a base together, decompressed. Every reader of one of the project's sessions holds
/// them compressed.
pub(crate) const BASE_BLOBS_BYTES_MAX: usize = 8 << 20;

/// Stretches counted while a base is made. When there are more, every second is forgotten.
pub(crate) const BASE_STRETCHES_COUNTED_MAX: usize = 1 << 21;
/// Identifiers counted while a base is made. Those met later are left to their segments.
pub(crate) const BASE_IDS_COUNTED_MAX: usize = 1 << 18;
/// Bytes of split segments, and of what it noted of them, that the first pass over a project keeps for the second.
pub(crate) const BASE_KEPT_BYTES_MAX: usize = 32 << 20;

/// A base is made from at most this many payload bytes, and a new one when its project has grown
/// by as many (or has doubled).
pub(crate) const BASE_SOURCE_BYTES_MAX: u64 = 64 << 20;
/// A project with fewer payload bytes gets no base.
pub(crate) const BASE_SOURCE_BYTES_MIN: u64 = 8 << 10;
/// A base with more stored bytes is not rewritten to put its pages in order, because appends wait
/// meanwhile.
pub(crate) const BASE_REWRITE_BYTES_MAX: usize = 4 << 20;

/// The WAL is checkpointed when it has grown to this many bytes, or to its share of the database's limit
/// ([`WAL_LIMIT_DIVISOR`]) if that is less.
pub(crate) const WAL_BYTES_SOFT_MAX: u64 = 4 << 20;
/// The WAL's share of the database's limit, see [`WAL_BYTES_SOFT_MAX`]: one part in this many, but never
/// less than [`WAL_BYTES_SOFT_MIN`].
pub(crate) const WAL_LIMIT_DIVISOR: u64 = 16;
/// However small the database's limit is, the WAL is not checkpointed for its size below this.
pub(crate) const WAL_BYTES_SOFT_MIN: u64 = 1 << 20;
/// While no append waits, the WAL is checkpointed at this size already. An append that comes meanwhile then
/// waits for a short checkpoint only. While appends always wait, fewer and longer checkpoints write less.
pub(crate) const WAL_BYTES_LULL_MAX: u64 = 512 << 10;
/// The size to which a checkpoint truncates the WAL's file. It is more than the WAL usually grows to, because
/// commits that overwrite the file are synced faster than commits that extend it (a third to two thirds more
/// messages per second than with 1 MiB kept). Compaction truncates it to nothing.
pub const WAL_BYTES_KEPT_MAX: u64 = 2 * WAL_BYTES_SOFT_MAX;
/// Size of the reserve file, which is given up when the disk is full, so that compacting, deleting and
/// checkpointing still work. It has space for the WAL and for the largest usual segment.
pub const RESERVE_BYTES_DEFAULT: u64 = 16 << 20;
/// The most that [`RESERVE_BYTES_DEFAULT`] may be raised to. A larger one takes space from everybody, and is
/// never needed.
pub const RESERVE_BYTES_MAX_CEILING: u64 = 1 << 30;
/// On a small disk the reserve is smaller: one part in this many of the free space.
pub(crate) const RESERVE_FREE_DIVISOR: u64 = 4;
/// After it was given up, the reserve comes back with at least one part in this many of the whole disk.
pub(crate) const RESERVE_DISK_DIVISOR: u64 = 8;
/// The smallest reserve. It has space for the shared memory beside the file and for a few short
/// transactions, which free more.
pub const RESERVE_BYTES_MIN: u64 = 1 << 20;
/// Time between two attempts to write the reserve, where the first failed although the file system reported
/// free space.
pub(crate) const RESERVE_RETRY_MS_MIN: u64 = 5_000;
/// Size of the file that is written to find out whether the disk, or the user's quota, is full.
pub(crate) const FULL_PROBE_BYTES: u64 = RESERVE_BYTES_MIN;
/// A failed write has met the system's limit on the size of files if a file is no further than this below it: SQLite
/// writes whole pages, and several at a time.
pub(crate) const FILE_SIZE_LIMIT_NEAR_BYTES: u64 = 16 * PAGE_BYTES as u64;
/// Messages are refused this far below the limit already, so that the pages that they need besides their
/// payloads do not exceed it.
pub(crate) const ADMISSION_SLACK_BYTES: u64 = 4 * PAGE_BYTES as u64;
/// While the reserve is given up, new messages are accepted only if the file has this many free bytes within
/// itself. What they leave must be enough for compacting.
pub(crate) const FULL_DISK_FREE_BYTES_MIN: u64 = 4 * RESERVE_BYTES_MIN;
/// Free pages given back in one transaction.
pub(crate) const RECLAIM_PAGES_PER_STEP: u32 = 256;
/// Rows deleted in one transaction when a session is removed.
pub(crate) const DELETE_ROWS_PER_STEP: u32 = 2048;
/// Payload or encoded bytes deleted in one transaction (a single larger row is deleted alone): SQLite
/// goes through all pages of what it deletes, and appends wait meanwhile.
pub(crate) const DELETE_BYTES_PER_STEP: u64 = GROUP_BYTES_MAX as u64;

/// Steps of deletions that were cut short which are done while a store is opened, each at most
/// [`DELETE_BYTES_PER_STEP`].
pub(crate) const OPEN_DELETION_STEPS_MAX: u32 = 4;

/// While others append, a run of compaction pauses after each of its maintenance jobs, this many times as long
/// as the job took.
pub(crate) const MAINTENANCE_REST_TIMES: u32 = 80;
/// The same near the database's limit, where space is needed sooner.
pub(crate) const MAINTENANCE_REST_TIMES_NEAR_LIMIT: u32 = MAINTENANCE_REST_TIMES / 20;
/// The longest such pause.
pub(crate) const MAINTENANCE_REST_MS_MAX: u64 = 250;
/// Others count as appending until this long after their last append.
pub(crate) const APPENDING_MS_MAX: u64 = 1_000;

/// How many looks at the lock other processes get between two steps of giving pages back or of deleting.
pub(crate) const STEP_REST_POLLS: u64 = 3;

/// Default size that the database may reach.
pub const DB_BYTES_MAX_DEFAULT: u64 = 1_000_000_000;
/// Smallest limit that makes sense: an empty store and a WAL.
pub const DB_BYTES_MAX_FLOOR: u64 = 1_000_000;
/// An append that is refused below this share of the limit was refused for its own size, which says nothing
/// about the database.
pub(crate) const AT_LIMIT_PERCENT_MIN: u64 = 99;
/// The footprint that the capacity plan hopes for.
pub const FOOTPRINT_TARGET: f64 = 0.30;
/// A gap between two messages counts as active time up to this long.
pub const ACTIVE_GAP_MS_MAX: i64 = 5 * 60 * 1000;
/// A turn of an imported stream counts as active time up to this long.
pub const TURN_MS_MAX: i64 = 24 * 60 * 60 * 1000;
/// The earliest plausible timestamp of a line, in Unix milliseconds: the beginning of 2020, before there were
/// agents.
pub(crate) const TIMESTAMP_MS_MIN: i64 = 1_577_836_800_000;
/// How far a plausible timestamp may be after the line's arrival. This allows for clocks that differ by a time
/// zone.
pub(crate) const TIMESTAMP_AFTER_ARRIVAL_MS_MAX: i64 = 24 * 60 * 60 * 1000;
/// The highest plausible cost of a turn, in US dollars. A line with more would spoil its session's sum for good.
pub(crate) const COST_USD_MAX: f64 = 1e9;
/// The longest duration of a turn that is read from a line. The protocol for clients has 32 bits for it.
pub(crate) const DURATION_FIELD_MS_MAX: f64 = u32::MAX as f64;
/// A relative path of an imported file that has more parts is kept as it is, so that a search by path need
/// not try more.
pub(crate) const IMPORT_PATH_PARTS_MAX: usize = 64;
/// Messages of one append to an archive.
pub(crate) const ARCHIVE_BATCH_MESSAGES_MAX: usize = 4096;
/// Size that an archive may reach, and a session in it. It is more than any disk has: every session that fits
/// the store must fit.
pub(crate) const ARCHIVE_BYTES_MAX: u64 = 1 << 50;
/// Compaction runs that a report holds.
pub(crate) const REPORTED_RUNS_MAX: u32 = 20;
/// Distinct message types in the growth figures; further ones count as `(other)`.
pub const MESSAGE_TYPES_MAX: usize = 256;
/// Length of an agent's id of a message. A longer text is not read as one.
pub(crate) const MESSAGE_ID_BYTES_MAX: usize = 256;
/// Length of a message type's name; a message with a longer one counts as `(untyped)`.
pub const MESSAGE_TYPE_BYTES_MAX: usize = 64;
/// Blocks of a message among which its first text is looked for.
pub(crate) const CONTENT_BLOCKS_MAX: usize = 256;
/// zstd's levels, of which any may be asked for.
pub const ENCODE_LEVEL_MIN: i32 = 1;
/// See [`ENCODE_LEVEL_MIN`].
pub const ENCODE_LEVEL_MAX: i32 = 22;
/// How long a session that somebody appends to has paused before the quick tier compacts it, by default.
pub const QUICK_IDLE_MS_DEFAULT: i64 = 60_000;
/// How long a session has been idle before the deep tier compacts it, by default.
pub const DEEP_IDLE_MS_DEFAULT: i64 = 10 * 60_000;
/// How often background compaction looks at the store, by default.
pub const COMPACTION_INTERVAL_MS_DEFAULT: u64 = 15_000;
/// How many times more often it looks at a database near its limit.
pub(crate) const COMPACTION_URGENT_DIVISOR: u64 = 10;
/// Share of one core's time that background compaction may take for encoding, by default.
pub const COMPACTION_CPU_FRACTION_DEFAULT: f64 = 0.5;
/// A run of compaction that is to take a smaller share of a core's time takes this one.
pub(crate) const COMPACTION_CPU_FRACTION_MIN: f64 = 0.01;
/// The longest pause of such a run after one step, whatever share of the time that step took.
pub(crate) const COMPACTION_PAUSE_MS_MAX: u64 = 10_000;
/// How long background compaction leaves a session alone that it could not compact, unless that has more
/// messages before.
pub(crate) const COMPACTION_FAILED_MS_MAX: u64 = 60 * 60 * 1000;
/// How often background compaction looks at the store at most, however near the limit it is: each look takes
/// the lease and reads the sessions' rows.
pub const COMPACTION_INTERVAL_MS_MIN: u64 = 10;
/// Threads that encode in one run of compaction.
pub const COMPACTION_THREADS_MAX: usize = 4;
/// Raw bytes of the steps that a run may encode ahead of the one being swapped in. A larger step is encoded
/// alone. A step takes several times its raw bytes of memory.
pub(crate) const COMPACTION_AHEAD_BYTES_MAX: u64 = 4 << 20;
/// Problems that SQLite's own check of the file reports.
pub const STRUCTURE_PROBLEMS_MAX: u32 = 100;
/// Problems of one kind that a check lists for one session. The number of the others is listed as one more.
pub const SESSION_PROBLEMS_MAX: usize = 1000;
/// Capacity events kept to be asked for later.
pub const EVENTS_KEPT_MAX: usize = 256;
/// Sessions that the writer remembers between commits. When there are more, it forgets them all and reads
/// each again when it is needed.
pub(crate) const CACHED_SESSIONS_MAX: usize = 4096;
/// How long appends count as refused for lack of space while only smaller ones than the refused are recorded.
pub(crate) const SPACE_REFUSED_MS_MAX: u64 = 60_000;
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
