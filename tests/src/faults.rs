//! Faults below SQLite: system calls that fail on request, and a file system whose power is cut.
//!
//! The only file of the workspace with `unsafe`: each use says why it holds.
#![allow(unsafe_code)]

use std::ffi::{CStr, c_char, c_int, c_void};
use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rusqlite::ffi;

/// Cuts the power of the file system that holds `folder`: nothing that is not on its device yet
/// gets there any more, its journal included. Needs root, and ext4 or XFS.
///
/// # Errors
/// What the system says.
pub fn cut_power(folder: &Path) -> std::io::Result<()> {
    // _IOR('X', 125, __u32), EXT4_IOC_SHUTDOWN in the kernel's ext4.h, the same number in XFS.
    const SHUTDOWN: libc::c_ulong = 0x8004_587d;
    const NO_LOG_FLUSH: u32 = 2;
    let folder = File::open(folder)?;
    let how = NO_LOG_FLUSH;
    // SAFETY: the descriptor is open for the whole call, and this request reads one u32 through
    // the pointer, which points to one.
    let done = unsafe { libc::ioctl(folder.as_raw_fd(), SHUTDOWN, &raw const how) };
    if done == 0 {
        Ok(())
    } else {
        Err(std::io::Error::last_os_error())
    }
}

/// A system call that can be made to fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Call {
    /// Writing to a file of SQLite's, with ENOSPC.
    Write,
    /// Changing the length of a file of SQLite's, with EIO.
    Truncate,
    /// SQLite's opening of a file, with EMFILE.
    Open,
    /// Reading from a file of SQLite's, with EIO.
    Read,
    /// Any fsync or fdatasync of the process, with EIO.
    Sync,
}

impl Call {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::Write,
        Self::Truncate,
        Self::Open,
        Self::Read,
        Self::Sync,
    ];

    fn slot(self) -> &'static Slot {
        match self {
            Self::Write => &WRITE,
            Self::Truncate => &TRUNCATE,
            Self::Open => &OPEN,
            Self::Read => &READ,
            Self::Sync => &SYNC,
        }
    }
}

/// Countdown of one call. Nothing fails while `left` is 0; the call that brings it from 1 to 0
/// does, and when `lasting`, so do all after it.
struct Slot {
    left: AtomicI64,
    lasting: AtomicBool,
    broken: AtomicBool,
    seen: AtomicI64,
}

impl Slot {
    const fn new() -> Self {
        Self {
            left: AtomicI64::new(0),
            lasting: AtomicBool::new(false),
            broken: AtomicBool::new(false),
            seen: AtomicI64::new(0),
        }
    }

    /// Counts a call; whether it has to fail.
    fn fails(&self) -> bool {
        self.seen.fetch_add(1, Ordering::SeqCst);
        if self.broken.load(Ordering::SeqCst) {
            return true;
        }
        let before = self
            .left
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| {
                (left > 0).then(|| left - 1)
            });
        let hit = before == Ok(1);
        if hit && self.lasting.load(Ordering::SeqCst) {
            self.broken.store(true, Ordering::SeqCst);
        }
        hit
    }

    fn reset(&self) {
        self.left.store(0, Ordering::SeqCst);
        self.lasting.store(false, Ordering::SeqCst);
        self.broken.store(false, Ordering::SeqCst);
        self.seen.store(0, Ordering::SeqCst);
    }
}

static WRITE: Slot = Slot::new();
static TRUNCATE: Slot = Slot::new();
static OPEN: Slot = Slot::new();
static READ: Slot = Slot::new();
static SYNC: Slot = Slot::new();
/// Syncs that leave out what a file system notes of a file besides its bytes, such as its times.
static DATA_SYNCS: AtomicI64 = AtomicI64::new(0);

static IN_USE: Mutex<()> = Mutex::new(());
static TAPE: Mutex<Option<Vec<Operation>>> = Mutex::new(None);

/// The faults of this process, which one test at a time may have: they concern every store.
/// They end with the handle.
#[derive(Debug)]
pub struct Faults {
    _alone: MutexGuard<'static, ()>,
}

impl Faults {
    /// Puts the tests' own system calls in the place of SQLite's. Stores opened from now on
    /// notice them.
    #[must_use]
    pub fn install() -> Self {
        let alone = IN_USE.lock().unwrap_or_else(PoisonError::into_inner);
        reset();
        replace(c"open", open as *const ());
        replace(c"read", read as *const ());
        replace(c"pread", pread as *const ());
        replace(c"pread64", pread as *const ());
        replace(c"write", write as *const ());
        replace(c"pwrite", pwrite as *const ());
        replace(c"pwrite64", pwrite as *const ());
        replace(c"ftruncate", ftruncate as *const ());
        Self { _alone: alone }
    }

    /// Makes the `n`-th `call` from now fail (from 1), and when `lasting` all after it.
    pub fn fail(&self, call: Call, n: i64, lasting: bool) {
        let slot = call.slot();
        slot.reset();
        slot.lasting.store(lasting, Ordering::SeqCst);
        slot.left.store(n, Ordering::SeqCst);
    }

    /// How often `call` was made since [`Faults::fail`] or [`Faults::heal`].
    #[must_use]
    pub fn seen(&self, call: Call) -> i64 {
        call.slot().seen.load(Ordering::SeqCst)
    }

    /// How many of the syncs since then were of a file's bytes alone.
    #[must_use]
    pub fn data_syncs(&self) -> i64 {
        DATA_SYNCS.load(Ordering::SeqCst)
    }

    /// Whether the failure that was asked for has happened.
    #[must_use]
    pub fn has_failed(&self, call: Call) -> bool {
        call.slot().left.load(Ordering::SeqCst) == 0
    }

    /// Nothing fails any more.
    pub fn heal(&self) {
        reset();
    }

    /// Begins to note what is written, cut and synced.
    pub fn start_tape(&self) {
        *tape() = Some(Vec::new());
    }

    /// Length of the tape so far.
    #[must_use]
    pub fn tape_length(&self) -> usize {
        tape().as_ref().map_or(0, Vec::len)
    }

    /// Ends the tape and hands it out.
    #[must_use]
    pub fn take_tape(&self) -> Vec<Operation> {
        tape().take().unwrap_or_default()
    }
}

impl Drop for Faults {
    fn drop(&mut self) {
        reset();
        *tape() = None;
    }
}

fn reset() {
    for call in Call::ALL {
        call.slot().reset();
    }
    DATA_SYNCS.store(0, Ordering::SeqCst);
}

/// Something that was done to a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Operation {
    /// The file.
    pub file: PathBuf,
    /// What was done.
    pub change: Change,
}

/// What was done to a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Bytes were written at an offset.
    Written(u64, Vec<u8>),
    /// The file was cut or grown to this length.
    Length(u64),
    /// Everything before it is on the device.
    Synced,
}

fn tape() -> MutexGuard<'static, Option<Vec<Operation>>> {
    TAPE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn note(descriptor: c_int, change: impl FnOnce() -> Change) {
    if let Some(tape) = tape().as_mut()
        && let Ok(file) = std::fs::read_link(format!("/proc/self/fd/{descriptor}"))
    {
        tape.push(Operation {
            file,
            change: change(),
        });
    }
}

fn fail_with(code: c_int) {
    // SAFETY: errno is the calling thread's own, and this returns where it is.
    unsafe { *libc::__errno_location() = code };
}

fn replace(name: &CStr, function: *const ()) {
    // SAFETY: SQLite knows its default file system by a null name, and its table of functions
    // lives as long as the process. `function` has the signature that SQLite expects under
    // `name` (os_unix.c) and lives as long. SQLite takes a pointer to any function here and
    // casts it back, hence the transmute. It returns SQLITE_NOTFOUND for a name that this build
    // does not use, which is fine.
    unsafe {
        let vfs = ffi::sqlite3_vfs_find(std::ptr::null());
        let set = (*vfs).xSetSystemCall.unwrap();
        let function: ffi::sqlite3_syscall_ptr = std::mem::transmute(function);
        let code = set(vfs, name.as_ptr(), function);
        assert!(code == ffi::SQLITE_OK || code == ffi::SQLITE_NOTFOUND);
    }
}

// The functions below stand in the place of the system's under the same contract: what SQLite
// passes is passed on as it is. That is why each inner call is sound.

unsafe extern "C" fn open(path: *const c_char, flags: c_int, mode: c_int) -> c_int {
    if OPEN.fails() {
        fail_with(libc::EMFILE);
        return -1;
    }
    // SAFETY: see above.
    unsafe { libc::open(path, flags, mode) }
}

unsafe extern "C" fn read(descriptor: c_int, to: *mut c_void, bytes: usize) -> isize {
    if READ.fails() {
        fail_with(libc::EIO);
        return -1;
    }
    // SAFETY: see above.
    unsafe { libc::read(descriptor, to, bytes) }
}

unsafe extern "C" fn pread(descriptor: c_int, to: *mut c_void, bytes: usize, at: i64) -> isize {
    if READ.fails() {
        fail_with(libc::EIO);
        return -1;
    }
    // SAFETY: see above.
    unsafe { libc::pread(descriptor, to, bytes, at) }
}

unsafe extern "C" fn write(descriptor: c_int, from: *const c_void, bytes: usize) -> isize {
    if WRITE.fails() {
        fail_with(libc::ENOSPC);
        return -1;
    }
    // SAFETY: see above; asking for the offset changes nothing.
    unsafe {
        let at = libc::lseek(descriptor, 0, libc::SEEK_CUR);
        note(descriptor, || written(at, from, bytes));
        libc::write(descriptor, from, bytes)
    }
}

unsafe extern "C" fn pwrite(
    descriptor: c_int,
    from: *const c_void,
    bytes: usize,
    at: i64,
) -> isize {
    if WRITE.fails() {
        fail_with(libc::ENOSPC);
        return -1;
    }
    // SAFETY: see above.
    unsafe {
        note(descriptor, || written(at, from, bytes));
        libc::pwrite(descriptor, from, bytes, at)
    }
}

/// # Safety
/// `from` must point to `bytes` readable bytes.
unsafe fn written(at: i64, from: *const c_void, bytes: usize) -> Change {
    // SAFETY: the caller was asked to write these bytes.
    let data = unsafe { std::slice::from_raw_parts(from.cast::<u8>(), bytes) };
    Change::Written(u64::try_from(at).unwrap_or(0), data.to_vec())
}

unsafe extern "C" fn ftruncate(descriptor: c_int, length: i64) -> c_int {
    if TRUNCATE.fails() {
        fail_with(libc::EIO);
        return -1;
    }
    note(descriptor, || {
        Change::Length(u64::try_from(length).unwrap_or(0))
    });
    // SAFETY: see above.
    unsafe { libc::ftruncate(descriptor, length) }
}

/// Takes the place of the C library's fsync in every executable that links this crate: SQLite
/// does not let it be replaced by name.
///
/// # Safety
/// As fsync: none is asked of the caller.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fsync(descriptor: c_int) -> c_int {
    sync(descriptor, libc::SYS_fsync)
}

/// As [`fsync()`], for the call that SQLite makes where it is built to.
///
/// # Safety
/// As fdatasync: none is asked of the caller.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fdatasync(descriptor: c_int) -> c_int {
    DATA_SYNCS.fetch_add(1, Ordering::SeqCst);
    sync(descriptor, libc::SYS_fdatasync)
}

fn sync(descriptor: c_int, call: libc::c_long) -> c_int {
    if SYNC.fails() {
        fail_with(libc::EIO);
        return -1;
    }
    // SAFETY: both system calls take a number and check it.
    let code = unsafe { libc::syscall(call, descriptor) };
    if code == 0 {
        note(descriptor, || Change::Synced);
    }
    // Lossless: 0 or -1.
    code as c_int
}
