//! The first bytes of a database file, read without SQLite, which may change a file by opening it.

use std::fs::File;
use std::io::Read;

/// Bytes of the header.
const HEADER_BYTES: usize = 100;
pub(crate) const MAGIC: &[u8; 16] = b"SQLite format 3\0";
const PAGE_BYTES_AT: usize = 16;
const READ_VERSION_AT: usize = 19;
const CHANGE_COUNTER_AT: usize = 24;
const PAGES_AT: usize = 28;
const USER_VERSION_AT: usize = 60;
const APPLICATION_ID_AT: usize = 68;
const VERSION_VALID_FOR_AT: usize = 92;

/// What the header of a database says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SqliteHeader {
    pub(crate) page_bytes: u32,
    /// Whether it has a write-ahead log.
    pub(crate) has_log: bool,
    /// How many pages it has. `None` where SQLite does not believe the number either: a program that does
    /// not know of it has written to the file since.
    pub(crate) pages: Option<u32>,
    pub(crate) user_version: i32,
    pub(crate) application_id: i32,
}

/// What a file begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FileBegin {
    /// It has no bytes.
    Empty,
    /// It is shorter than any database: this many bytes.
    Short(usize),
    /// It is no database.
    Other,
    Database(SqliteHeader),
}

impl FileBegin {
    /// What a file begins with that was just opened.
    pub(crate) fn read(file: &mut File) -> std::io::Result<Self> {
        let mut begin = Vec::with_capacity(HEADER_BYTES);
        file.take(HEADER_BYTES as u64).read_to_end(&mut begin)?;
        Ok(Self::parse(&begin))
    }

    fn parse(begin: &[u8]) -> Self {
        let Some(header) = begin.first_chunk::<HEADER_BYTES>() else {
            return match begin.len() {
                0 => Self::Empty,
                bytes => Self::Short(bytes),
            };
        };
        SqliteHeader::parse(header).map_or(Self::Other, Self::Database)
    }
}

impl SqliteHeader {
    fn parse(header: &[u8; HEADER_BYTES]) -> Option<Self> {
        if !header.starts_with(MAGIC) {
            return None;
        }
        let word = |at: usize| -> [u8; 4] {
            std::array::from_fn(|i| header.get(at + i).copied().unwrap_or_default())
        };
        let [first, second, _, _] = word(PAGE_BYTES_AT);
        let page_bytes = match u16::from_be_bytes([first, second]) {
            // 65,536, which does not fit.
            1 => 1 << 16,
            bytes => bytes.into(),
        };
        let [read_version, ..] = word(READ_VERSION_AT);
        let is_valid = word(CHANGE_COUNTER_AT) == word(VERSION_VALID_FOR_AT);
        Some(Self {
            page_bytes,
            has_log: read_version == 2,
            pages: is_valid.then(|| u32::from_be_bytes(word(PAGES_AT))),
            user_version: i32::from_be_bytes(word(USER_VERSION_AT)),
            application_id: i32::from_be_bytes(word(APPLICATION_ID_AT)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_header_of_a_database_says_what_sqlite_says() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.db");
        let connection = rusqlite::Connection::open(&path).unwrap();
        connection
            .execute_batch(
                "PRAGMA page_size = 65536; PRAGMA application_id = -7; PRAGMA user_version = 9;
                 CREATE TABLE t (x)",
            )
            .unwrap();
        let mut expected = SqliteHeader {
            page_bytes: 65_536,
            has_log: false,
            pages: Some(2),
            user_version: 9,
            application_id: -7,
        };
        let read = || FileBegin::read(&mut File::open(&path).unwrap()).unwrap();
        assert_eq!(read(), FileBegin::Database(expected));
        connection
            .execute_batch("PRAGMA page_size = 1024; VACUUM; PRAGMA journal_mode = WAL")
            .unwrap();
        drop(connection);
        (expected.page_bytes, expected.has_log) = (1024, true);
        assert_eq!(read(), FileBegin::Database(expected));
        // As a program writes it that does not know of the number of pages.
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[CHANGE_COUNTER_AT + 3] ^= 1;
        expected.pages = None;
        assert_eq!(FileBegin::parse(&bytes), FileBegin::Database(expected));
        assert_eq!(FileBegin::parse(&bytes[..99]), FileBegin::Short(99));
        assert_eq!(FileBegin::parse(b""), FileBegin::Empty);
        assert_eq!(FileBegin::parse(&[7; 200]), FileBegin::Other);
    }
}
