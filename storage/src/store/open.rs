//! Opening: which files are taken for a store, and what is set up for one.

use std::path::Path;
use std::sync::Arc;

use super::{Inner, Store};
use crate::error::{Result, StoreError};
use crate::files;
use crate::open_files::OpenFile;
use crate::options::StoreOptions;
use crate::reader::Readers;
use crate::reserve::Reserve;
use crate::sql::db::Db;
use crate::sql::migrate::{self, FileState};
use crate::watch::CapacityWatch;
use crate::writer::Writer;

impl Store {
    /// Opens the store at `path` for reading and writing, creating it (and its folder) when there
    /// is none. An older format is brought up to date after a copy of the file was made.
    ///
    /// The cost does not depend on how much history there is. If the deletion of a session was cut short, a
    /// bounded part of what is left of it is deleted; the next compaction does the rest.
    ///
    /// # Errors
    /// [`StoreError::Foreign`] and [`StoreError::Newer`] for files that are not ours to touch,
    /// [`StoreError::StrayLog`] when there is a log of a deleted database at `path`,
    /// [`StoreError::ReadOnly`], [`StoreError::DiskFull`], [`StoreError::Busy`],
    /// [`StoreError::InvalidArgument`] for options out of bounds, and for a name that belongs to another
    /// database, such as that of its log, [`StoreError::Damaged`], [`StoreError::CutOff`],
    /// [`StoreError::Io`], [`StoreError::SqliteTooOld`].
    pub fn open(path: &Path, options: StoreOptions) -> Result<Self> {
        options.validate()?;
        Db::check_sqlite_version()?;
        let path = &files::resolve_links(path);
        let db = Db::at(path);
        files::refuse_name_of_log(path)?;
        let header = files::refuse_unknown(&db)?;
        if !path.exists() {
            files::refuse_new_name(path)?;
            files::refuse_stray_log(&db)?;
        }
        files::create_private(path)?;
        if let Some(kind) = files::network_file_system(path) {
            tracing::warn!(path = %path.display(), kind,
                "the store is on a network file system, where SQLite cannot keep it safe");
        }
        let open = Arc::new(OpenFile::note(path));
        let reserve_path = db.beside("-reserve");
        if header == files::Header::Unidentified {
            // Setting a connection up to write changes the file already, and closing it the log.
            migrate::inspect(&db, &db.connect_reader()?)?;
        }
        let connect = || {
            let mut connection = db.connect_writer(options.durability)?;
            if let Some(cut_off) = db.cut_off_in_last_page(&connection)? {
                return Err(cut_off.error(path));
            }
            let now_ms = options.clock.now_ms();
            migrate::bring_up(&db, &mut connection, now_ms, |_, version| {
                crate::backup::before_migration(&db, version)
            })?;
            crate::surroundings::turn_on_log(&db, &connection);
            Ok(connection)
        };
        let connection = match connect() {
            // Even reading needs room for the shared memory beside the file.
            Err(StoreError::DiskFull { .. }) if Reserve::give_up(&reserve_path) => connect(),
            connected => connected,
        }
        .map_err(|error| match (&error, open.cut_off()) {
            // SQLite does not open a file that is shorter than its header says, and does not say why.
            (StoreError::Damaged { .. }, Some(cut_off)) => cut_off.error(path),
            _ => error,
        })?;
        let reserve = Reserve::hold(reserve_path, options.reserve_bytes);
        let target = db.reader_target(None)?;
        let readers = Readers::open(&db, target, options.readers_max, None, Arc::clone(&open));
        let watch = CapacityWatch::new(options.size_limits(), options.logs_levels);
        let watch = Arc::new(watch);
        let writer = Writer::start(
            db.clone(),
            connection,
            &options,
            reserve,
            Arc::clone(&watch),
            Arc::clone(&open),
        )?;
        let store = Self {
            inner: Arc::new(Inner {
                db,
                options,
                readers,
                watch,
                cut_off: None,
                writer: Some(writer),
                open,
            }),
        };
        store.finish_short_deletions()?;
        Ok(store)
    }

    /// Opens the store at `path` for reading only. Other processes may write meanwhile. Of the options only
    /// `db_bytes_max` and `session_bytes_max` (what sizes are compared with), `logs_levels`, `readers_max` and
    /// `clock` are used. Limits are not stored in the file: pass those of the process that writes, or sizes are
    /// compared with the wrong ones.
    ///
    /// # Errors
    /// [`StoreError::Missing`] when there is none; otherwise as [`Store::open`]. A store of an
    /// older format is read as it is; so is what there is of a file that is cut off, with a warning.
    pub fn open_read_only(path: &Path, options: StoreOptions) -> Result<Self> {
        options.validate()?;
        Db::check_sqlite_version()?;
        let path = &files::resolve_links(path);
        let db = Db::at(path);
        files::refuse_unknown(&db)?;
        let open = Arc::new(OpenFile::note(path));
        let target = match db.reader_target(open.cut_off()) {
            Err(StoreError::DiskFull { .. }) if Reserve::give_up(&db.beside("-reserve")) => {
                db.reader_target(open.cut_off())
            }
            found => found,
        }?;
        let connection = db.connect_to(&target)?;
        let cut_off = match target.cut_off {
            None => db.cut_off_in_last_page(&connection)?,
            cut_off => cut_off,
        };
        if let Some(cut_off) = cut_off {
            tracing::warn!(path = %path.display(), pages_there = cut_off.pages_there,
                pages = cut_off.pages, "the file is cut off: only what is there is read");
        }
        match migrate::inspect(&db, &connection)? {
            FileState::Store { version }
                if version >= betcode_schema_sql::OLDEST_READABLE_VERSION => {}
            FileState::Store { version } => {
                let why = format!("its format {version} is older; open it for writing once");
                return Err(StoreError::ReadOnly {
                    path: path.to_owned(),
                    why,
                });
            }
            // It is empty: another process is about to create the store.
            FileState::Empty => {
                return Err(StoreError::Missing {
                    path: path.to_owned(),
                });
            }
        }
        let first = Some(connection);
        let readers = Readers::open(&db, target, options.readers_max, first, Arc::clone(&open));
        let watch = CapacityWatch::new(options.size_limits(), options.logs_levels);
        let watch = Arc::new(watch);
        Ok(Self {
            inner: Arc::new(Inner {
                db,
                options,
                readers,
                watch,
                cut_off,
                writer: None,
                open,
            }),
        })
    }
}
