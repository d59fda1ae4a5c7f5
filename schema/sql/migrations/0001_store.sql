-- The history store, format 1. docs/FORMAT.md explains each table and what must hold between them.
-- Times are Unix milliseconds (UTC); hours are Unix hours; sizes are bytes.

-- One row: who this store is, and totals that every commit keeps, so that a report costs the
-- same whatever the size of the history.
CREATE TABLE store (
    singleton         INTEGER PRIMARY KEY CHECK (singleton = 1),
    store_id          TEXT    NOT NULL,
    created_ms        INTEGER NOT NULL,
    sessions          INTEGER NOT NULL DEFAULT 0,
    messages          INTEGER NOT NULL DEFAULT 0,
    raw_bytes         INTEGER NOT NULL DEFAULT 0,
    uncompacted_bytes INTEGER NOT NULL DEFAULT 0,
    hot_messages      INTEGER NOT NULL DEFAULT 0,
    hot_bytes         INTEGER NOT NULL DEFAULT 0,
    segments          INTEGER NOT NULL DEFAULT 0,
    segment_bytes     INTEGER NOT NULL DEFAULT 0,
    bases             INTEGER NOT NULL DEFAULT 0,
    base_bytes        INTEGER NOT NULL DEFAULT 0,
    active_ms         INTEGER NOT NULL DEFAULT 0,
    wall_ms           INTEGER NOT NULL DEFAULT 0
) STRICT;

-- One agent conversation. AUTOINCREMENT: a key is never used again, because the keys of
-- messages and segments are made of it.
CREATE TABLE sessions (
    session_key       INTEGER PRIMARY KEY AUTOINCREMENT,
    session_id        TEXT    NOT NULL UNIQUE,
    name              TEXT    NOT NULL DEFAULT '',
    model             TEXT    NOT NULL DEFAULT '',
    working_directory TEXT    NOT NULL DEFAULT '',
    worktree_id       TEXT    NOT NULL DEFAULT '',
    agent_session_id  TEXT    NOT NULL DEFAULT '',
    created_ms        INTEGER NOT NULL,
    updated_ms        INTEGER NOT NULL,
    -- Sequences run from 1 without gaps, so this is the number of messages as well.
    last_sequence     INTEGER NOT NULL DEFAULT 0,
    raw_bytes         INTEGER NOT NULL DEFAULT 0,
    uncompacted_bytes INTEGER NOT NULL DEFAULT 0,
    hot_messages      INTEGER NOT NULL DEFAULT 0,
    hot_bytes         INTEGER NOT NULL DEFAULT 0,
    segments          INTEGER NOT NULL DEFAULT 0,
    segment_bytes     INTEGER NOT NULL DEFAULT 0,
    -- When things were said (messages' own timestamps, else arrival); NULL before the first.
    first_time_ms     INTEGER,
    last_time_ms      INTEGER,
    active_ms         INTEGER NOT NULL DEFAULT 0,
    -- JSON object, see `usage::SessionUsage`.
    usage             TEXT    NOT NULL DEFAULT '{}',
    last_preview      TEXT    NOT NULL DEFAULT ''
) STRICT;

-- A message of its own. message_key = session_key << 32 | sequence: one range scan replays a
-- session, and there is no second index to maintain. `digest` is XXH3-64 of the payload: SQLite's
-- integrity check does not see a flipped bit in a blob.
CREATE TABLE hot_messages (
    message_key INTEGER PRIMARY KEY,
    received_ms INTEGER NOT NULL,
    digest      INTEGER NOT NULL,
    payload     BLOB    NOT NULL
) STRICT;

-- A run of consecutive messages of one session, compressed as one value.
-- segment_key = session_key << 32 | first sequence. The blob stands last: reading the columns
-- before it touches none of its overflow pages.
CREATE TABLE segments (
    segment_key   INTEGER PRIMARY KEY,
    last_sequence INTEGER NOT NULL,
    raw_bytes     INTEGER NOT NULL,
    tier          INTEGER NOT NULL,
    created_ms    INTEGER NOT NULL,
    -- The base that it was encoded with; NULL for none.
    base_id       INTEGER,
    encoded       BLOB    NOT NULL
) STRICT;
-- What the deep tier has still to do.
CREATE INDEX segments_quick ON segments (segment_key) WHERE tier = 1;
-- Which bases are in use.
CREATE INDEX segments_based ON segments (base_id) WHERE base_id IS NOT NULL;

-- What sessions of one project (working directory) share, kept once. A base never changes and
-- belongs to no session: it goes when no segment needs it any more. base_id is the XXH3-64 that
-- the encoded base carries, as a signed integer.
CREATE TABLE bases (
    base_id          INTEGER PRIMARY KEY,
    project          TEXT    NOT NULL,
    -- Payload bytes of the messages that it was made from.
    source_raw_bytes INTEGER NOT NULL,
    created_ms       INTEGER NOT NULL,
    encoded          BLOB    NOT NULL
) STRICT;

-- Sessions removed whose rows are still being deleted, in steps.
CREATE TABLE deletions (
    session_key INTEGER PRIMARY KEY,
    deleted_ms  INTEGER NOT NULL
) STRICT;

CREATE TABLE message_types (
    type_id   INTEGER PRIMARY KEY,
    name      TEXT    NOT NULL UNIQUE,
    messages  INTEGER NOT NULL DEFAULT 0,
    raw_bytes INTEGER NOT NULL DEFAULT 0
) STRICT;

-- Growth per session, hour and message type.
CREATE TABLE growth (
    session_key INTEGER NOT NULL,
    hour        INTEGER NOT NULL,
    type_id     INTEGER NOT NULL,
    messages    INTEGER NOT NULL,
    raw_bytes   INTEGER NOT NULL,
    PRIMARY KEY (session_key, hour, type_id)
) STRICT, WITHOUT ROWID;

-- Active time per session and hour: gaps between messages, each capped at five minutes.
CREATE TABLE activity (
    session_key INTEGER NOT NULL,
    hour        INTEGER NOT NULL,
    active_ms   INTEGER NOT NULL,
    PRIMARY KEY (session_key, hour)
) STRICT, WITHOUT ROWID;

-- The same over all sessions: the growth curve, a row per hour of history.
CREATE TABLE growth_hours (
    hour      INTEGER PRIMARY KEY,
    messages  INTEGER NOT NULL,
    raw_bytes INTEGER NOT NULL,
    active_ms INTEGER NOT NULL
) STRICT;

-- Where an imported session comes from, and how far its file was taken. Updated in the
-- transaction that takes the lines.
CREATE TABLE imports (
    session_key   INTEGER PRIMARY KEY,
    source_path   BLOB    NOT NULL,
    relative_path BLOB    NOT NULL,
    taken_bytes   INTEGER NOT NULL,
    -- XXH3-128 of the bytes taken, big-endian.
    taken_digest  BLOB    NOT NULL,
    -- 1 when the last line taken had no newline.
    unterminated  INTEGER NOT NULL
) STRICT;
CREATE INDEX imports_by_source ON imports (source_path);
CREATE INDEX imports_by_relative ON imports (relative_path);

-- Messages that the next one continued on the same line of the imported file: no newline stands
-- between the two when the session is exported.
CREATE TABLE joins (
    session_key INTEGER NOT NULL,
    sequence    INTEGER NOT NULL,
    PRIMARY KEY (session_key, sequence)
) STRICT, WITHOUT ROWID;

CREATE TABLE compaction_runs (
    run_id            INTEGER PRIMARY KEY,
    started_ms        INTEGER NOT NULL,
    finished_ms       INTEGER NOT NULL,
    trigger           TEXT    NOT NULL,
    tier              TEXT    NOT NULL,
    outcome           TEXT    NOT NULL,
    bytes_before      INTEGER NOT NULL,
    bytes_after       INTEGER NOT NULL,
    messages          INTEGER NOT NULL,
    raw_bytes         INTEGER NOT NULL,
    segments_written  INTEGER NOT NULL,
    segments_replaced INTEGER NOT NULL,
    detail            TEXT    NOT NULL
) STRICT;

INSERT INTO store (singleton, store_id, created_ms)
VALUES (1, lower(hex(randomblob(16))), CAST(unixepoch('subsec') * 1000 AS INTEGER));
