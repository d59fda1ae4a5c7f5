-- Format 2: the path of an imported file stands once for its folder and not four times for each
-- file. The rows of format 1 are carried over by the program, which computes the hashes, and which
-- then drops `imports_1`.

ALTER TABLE imports RENAME TO imports_1;
DROP INDEX imports_by_source;
DROP INDEX imports_by_relative;

-- Folders that files were imported from. `path` ends with its separator; `root_bytes` of it are not
-- part of the files' relative paths. `files` are the rows of `imports` that name it; the last one
-- takes the folder with it.
CREATE TABLE import_folders (
    folder_id  INTEGER PRIMARY KEY,
    path       BLOB    NOT NULL,
    root_bytes INTEGER NOT NULL,
    files      INTEGER NOT NULL
) STRICT;

-- Where an imported session comes from, and how far its file was taken. Updated in the transaction
-- that takes the lines. `file_name` lacks the session's id at its beginning when `begins_with_id` is 1.
-- `relative_path` is NULL when it is what the path has behind the folder's root. `taken_digest` is
-- XXH3-128 of the bytes taken, big-endian; `unterminated` is 1 when the last line taken had no newline.
CREATE TABLE imports (
    session_key    INTEGER PRIMARY KEY,
    folder_id      INTEGER NOT NULL,
    begins_with_id INTEGER NOT NULL,
    file_name      BLOB    NOT NULL,
    taken_bytes    INTEGER NOT NULL,
    taken_digest   BLOB    NOT NULL,
    unterminated   INTEGER NOT NULL,
    relative_path  BLOB
) STRICT;

-- By which paths the rows of `imports` are found: the highest 31 bits of the XXH3-64 of the relative
-- path, and for a row whose relative path is not NULL of the whole path as well.
CREATE TABLE import_paths (
    path_hash   INTEGER NOT NULL,
    session_key INTEGER NOT NULL,
    PRIMARY KEY (path_hash, session_key)
) STRICT, WITHOUT ROWID;
