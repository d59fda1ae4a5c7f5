//! Every bound of the tool's waits, buffers and lists, with its unit in its name. The engine's bounds
//! are in `betcode_storage::limits`, the generator's sizes beside the generator.

/// A signal within this time after the first counts as the same one: `timeout` of coreutils sends its signal
/// twice, and a wrapper may pass on a signal that the terminal has already sent to the tool.
pub const REPEATED_SIGNAL_MS_MAX: u64 = 1_000;

/// How long a daemon that is just starting is waited for.
pub const DAEMON_START_MS_MAX: u64 = 5_000;
/// How often the tool checks meanwhile whether it has started.
pub const DAEMON_START_POLL_MS: u64 = 50;
/// How long a daemon's answer is waited for. Long work answers at once, and then reports its progress.
pub const ANSWER_MS_MAX: u64 = 30_000;
/// How long a report waits for the daemon: what it does not say in time is left out.
pub const REPORT_ANSWER_MS_MAX: u64 = 2_000;
/// How long a deletion is waited for: it removes a session's rows in small steps before it answers.
pub const DELETE_MS_MAX: u64 = 600_000;
/// How long a batch may take: the daemon's own wait for its queue, and a large commit.
pub const COMMIT_MS_MAX: u64 = 120_000;
/// How often the tool checks whether the user wants to stop, while a daemon works.
pub const INTERRUPT_POLL_MS: u64 = 50;
/// Bytes on the way in one stream to or from a daemon, and in all of them.
pub const WINDOW_BYTES: u32 = 1 << 20;

/// How long `compact` waits for another compaction.
pub const COMPACT_WAIT_MS_MAX: u64 = 10_000;
/// How long an import waits for a compaction of the daemon's own: near its limit it compacts without being
/// asked.
pub const IMPORT_COMPACT_WAIT_MS_MAX: u64 = 60_000;
/// How often a run is asked for while another one is under way.
pub const COMPACT_POLL_MS: u64 = 200;
/// How often `cat --follow` looks for what was appended.
pub const FOLLOW_POLL_MS: u64 = 250;

/// Bytes of the buffers through which files are read and written.
pub const FILE_BUFFER_BYTES: usize = 256 << 10;
/// Bytes of the buffer before standard output.
pub const STDOUT_BUFFER_BYTES: usize = 256 << 10;

/// Bytes of a file's beginning that decide whether it holds lines.
pub const SNIFFED_BYTES: usize = 8 << 10;
/// Bytes of a batch of an import; one longer line makes a batch of its own.
pub const IMPORT_BATCH_BYTES_MAX: usize = 1 << 20;
/// Lines of a batch of an import.
pub const IMPORT_BATCH_LINES_MAX: usize = 4096;
/// Bytes imported between two quick compactions, so that a large import never needs space for all
/// its lines uncompacted.
pub const IMPORT_COMPACT_EVERY_BYTES: u64 = 64_000_000;
/// How often the import of a file is retried when another import records the same lines.
pub const OVERTAKEN_TRIES_MAX: usize = 4;
/// Sessions that a file is compared with to see whether it is an older copy of one.
pub const OLDER_COPY_REPLAYS_MAX: usize = 32;

/// Random letters and digits at the end of the name of an unfinished export.
pub const UNFINISHED_RANDOM_BYTES: usize = 6;
/// How long an unfinished file of another export is left alone: a new one may not be locked yet.
pub const UNFINISHED_MS_MIN: u64 = 3_600_000;

/// Lines of a list (sessions to go, steps of a plan, files that were skipped) before the rest is summed up.
pub const LISTED_MAX: usize = 20;
/// Sessions shown for a text that names several.
pub const CANDIDATES_MAX: usize = 10;
/// Characters of a shortened session id, unless it needs more to be unique.
pub const SHORT_ID_CHARS_MIN: usize = 13;
/// Columns of what a list of sessions says of each.
pub const ABOUT_CELLS_MAX: usize = 54;
/// Characters shown around what a search has found.
pub const EXCERPT_CHARS_MAX: usize = 120;
