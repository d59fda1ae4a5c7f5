//! A file that holds space in reserve: given up when the disk is full, so that the work that
//! makes room (compaction, deletion, checkpoints) has some to begin with.

use std::fs::{File, OpenOptions};
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::io::Errno;

use crate::files::{Disk, disk};
use crate::limits::{
    RESERVE_BYTES_MIN, RESERVE_DISK_DIVISOR, RESERVE_FREE_DIVISOR, RESERVE_RETRY_MS_MIN,
};

const CHUNK_BYTES: usize = 64 << 10;

pub(crate) struct Reserve {
    path: PathBuf,
    /// What it should hold, on a disk that has room.
    bytes: u64,
    held_bytes: u64,
    /// It was given up, by us or by an earlier opening, and is not back yet.
    given_up: bool,
    /// When writing it last failed although the file system reported free space.
    failed: Option<Instant>,
}

impl Reserve {
    /// Puts `bytes` aside in `path` if there is room; 0 turns the reserve off.
    pub(crate) fn hold(path: PathBuf, bytes: u64) -> Self {
        let held = std::fs::metadata(&path).map(|m| m.len());
        let mut reserve = Self {
            path,
            bytes,
            // Giving up leaves an empty file.
            given_up: bytes > 0 && held.as_ref().is_ok_and(|&held| held == 0),
            held_bytes: held.unwrap_or(0),
            failed: None,
        };
        reserve.restore_when_possible();
        reserve
    }

    /// What is held is what the file holds: other processes give it up and restore it as well.
    fn refresh(&mut self) {
        match std::fs::metadata(&self.path) {
            Ok(held) if self.bytes > 0 => {
                self.held_bytes = held.len();
                self.given_up = self.held_bytes == 0;
            }
            _ => self.held_bytes = 0,
        }
    }

    /// Whether there is to be one.
    pub(crate) fn is_wanted(&self) -> bool {
        self.bytes > 0
    }

    /// What is held now; `None` where none is wanted.
    pub(crate) fn held_bytes(&mut self) -> Option<u64> {
        self.refresh();
        self.is_wanted().then_some(self.held_bytes)
    }

    /// Gives the space up. Returns whether there was any.
    pub(crate) fn release(&mut self) -> bool {
        self.refresh();
        if self.bytes == 0 || std::mem::take(&mut self.held_bytes) == 0 {
            return false;
        }
        self.given_up = Self::give_up(&self.path);
        self.given_up
    }

    /// Whether new messages may be accepted. Not while the reserve is given up: they would use the space that
    /// compacting and deleting need.
    pub(crate) fn allows_appends(&mut self) -> bool {
        self.refresh();
        if self.given_up {
            self.restore_when_possible();
        }
        !self.given_up
    }

    /// Gives up the reserve in `path`, which an earlier opening left. Returns whether there was any.
    pub(crate) fn give_up(path: &Path) -> bool {
        let bytes = std::fs::metadata(path).map_or(0, |m| m.len());
        if bytes == 0 {
            return false;
        }
        let cut = OpenOptions::new()
            .write(true)
            .open(path)
            .and_then(|f| f.set_len(0));
        match cut {
            Ok(()) => {
                tracing::warn!(bytes, "the disk is full: the reserve was given up");
                true
            }
            Err(error) => {
                tracing::error!(%error, path = %path.display(), "the reserve cannot be given up");
                false
            }
        }
    }

    /// Restores the reserve if the disk has room: less on a small disk; an existing one grows only by a
    /// quarter or more.
    pub(crate) fn restore_when_possible(&mut self) {
        self.refresh();
        let wait = Duration::from_millis(RESERVE_RETRY_MS_MIN);
        if self.held_bytes >= self.bytes || self.failed.is_some_and(|at| at.elapsed() < wait) {
            return;
        }
        let bytes = match disk(&self.path) {
            Some(disk) => self.bytes_to_hold(disk),
            // A file system that does not report its size may have room for all of it.
            None => Some(self.bytes),
        };
        let Some(bytes) = bytes else { return };
        if grow(&self.path, bytes).is_ok() {
            self.held_bytes = bytes;
            self.given_up = false;
            self.failed = None;
            return;
        }
        self.failed = Some(Instant::now());
        // Without a reserve the store works until the disk is full. An empty file would mean that it was given up.
        if self.held_bytes == 0 && !self.given_up {
            let _ = std::fs::remove_file(&self.path);
        }
    }

    /// How much to hold from now on, if that is more than now. What is held already counts as free.
    /// Otherwise a reserve written during a compaction, when little was free, would stay too small.
    fn bytes_to_hold(&self, disk: Disk) -> Option<u64> {
        let room_bytes = disk.free_bytes.saturating_add(self.held_bytes);
        let share = room_bytes / RESERVE_FREE_DIVISOR;
        // It was needed before. If it came back with a quarter of what is left each time, it would soon be too small
        // to compact with, while new messages use the rest.
        let at_least = if self.given_up {
            disk.total_bytes / RESERVE_DISK_DIVISOR
        } else {
            0
        };
        let bytes = share.max(at_least).min(self.bytes);
        let worthwhile = bytes == self.bytes || bytes >= self.held_bytes + self.held_bytes / 4;
        let enough = bytes >= self.bytes.min(RESERVE_BYTES_MIN);
        (enough && worthwhile && bytes <= room_bytes).then_some(bytes)
    }
}

/// Grows the file in `path` to `bytes`, or leaves its size as it is if there is no space.
fn grow(path: &Path, bytes: u64) -> std::io::Result<()> {
    let mut file: File = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)?;
    let held_bytes = file.metadata()?.len();
    fill(&mut file, held_bytes, bytes).or_else(|error| {
        file.set_len(held_bytes)?;
        Err(error)
    })
}

/// Writes real bytes from `held_bytes` on: a file of holes would hold no space.
fn fill(file: &mut File, held_bytes: u64, bytes: u64) -> std::io::Result<()> {
    match rustix::fs::fallocate(&*file, rustix::fs::FallocateFlags::empty(), 0, bytes) {
        Ok(()) => return Ok(()),
        Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => {}
        // No room after all, or no more for this user: written zeros would meet the same.
        Err(error) => return Err(error.into()),
    }
    file.seek(SeekFrom::Start(held_bytes))?;
    let chunk = vec![0_u8; CHUNK_BYTES];
    let mut left = bytes.saturating_sub(held_bytes);
    while left > 0 {
        let step = left.min(CHUNK_BYTES as u64);
        // Lossless: at most CHUNK_BYTES.
        file.write_all(&chunk[..step as usize])?;
        left -= step;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn held_on(free_mib: u64, total_mib: u64, given_up: bool) -> Option<u64> {
        let reserve = Reserve {
            path: PathBuf::new(),
            bytes: 16 * MIB,
            held_bytes: 0,
            given_up,
            failed: None,
        };
        let disk = Disk {
            free_bytes: free_mib * MIB,
            total_bytes: total_mib * MIB,
        };
        reserve.bytes_to_hold(disk).map(|bytes| bytes / MIB)
    }

    #[test]
    fn a_small_disk_gets_a_quarter_of_what_is_free() {
        assert_eq!(held_on(1000, 2000, false), Some(16));
        assert_eq!(held_on(24, 24, false), Some(6));
        assert_eq!(held_on(24, 2000, false), Some(6));
        assert_eq!(held_on(3, 24, false), None);
    }

    #[test]
    fn what_was_given_up_comes_back_only_as_large_as_the_disk_needs_it() {
        assert_eq!(held_on(24, 2000, true), Some(16));
        assert_eq!(held_on(15, 2000, true), None);
        assert_eq!(held_on(3, 24, true), Some(3));
        assert_eq!(held_on(2, 24, true), None);
    }

    #[test]
    fn a_reserve_that_cannot_grow_keeps_what_it_holds() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("h.db-reserve");
        grow(&path, 1 << 20).unwrap();
        // More than any file system has.
        assert!(grow(&path, 1 << 62).is_err());
        assert_eq!(std::fs::metadata(&path).unwrap().len(), 1 << 20);
    }
}
