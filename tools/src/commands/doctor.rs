//! `doctor`: quick checks of the database's surroundings, and what to do about problems.

use std::fs;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use betcode_storage::capacity::levels::Metric;
use betcode_storage::capacity::report::CapacityReport;
use betcode_storage::capacity::text::used_percent;
use betcode_storage::limits::{RESERVE_BYTES_DEFAULT, RESERVE_BYTES_MIN, WAL_BYTES_KEPT_MAX};
use betcode_storage::{FileSettings, Level, RunOutcome, Surroundings};
use serde::Serialize;
use serde_json::json;

use super::{Context, folder_of};
use crate::daemon::{self, DaemonStatus};
use crate::error::{Exit, Failure, Result};
use crate::output::{Out, format};

/// Check the database's surroundings (disk, permissions, limits, daemon) and suggest fixes
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Reads no history and changes nothing, so it takes a moment whatever the size: `betcode-db \
verify` checks the history itself. Exit code 1 when something is to be done.")]
pub struct Args {}

/// How a check ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum State {
    Ok,
    /// Nothing is wrong, and something is worth knowing.
    Note,
    /// Something is to be done.
    Problem,
}

/// One thing that was looked at.
#[derive(Debug, Clone, Serialize)]
struct Check {
    check: &'static str,
    state: State,
    what: String,
    #[serde(rename = "try")]
    hint: Option<String>,
}

impl Check {
    fn ok(check: &'static str, what: impl Into<String>) -> Self {
        Self {
            check,
            state: State::Ok,
            what: what.into(),
            hint: None,
        }
    }

    fn note(check: &'static str, what: impl Into<String>, hint: impl Into<String>) -> Self {
        Self {
            state: State::Note,
            hint: Some(hint.into()),
            ..Self::ok(check, what)
        }
    }

    fn problem(check: &'static str, what: impl Into<String>, hint: impl Into<String>) -> Self {
        Self {
            state: State::Problem,
            ..Self::note(check, what, hint)
        }
    }
}

/// Runs the command.
pub(super) fn run(_args: &Args, context: Context<'_>) -> Result<Exit> {
    let path = context.database()?;
    let around = Surroundings::of(&path);
    let status = DaemonStatus::of(&path);
    let opened = context
        .judge(status.as_ref())
        .and_then(|(store, report)| Ok((store.file_settings()?, report)));
    if let Err(failure) = &opened
        && failure.exit == Exit::NotFound
        && around.stray_log.is_none()
    {
        return Err(failure.clone());
    }
    let mut checks = Vec::new();
    match &opened {
        Ok((settings, report)) => {
            checks.push(database(report));
            checks.extend(file(settings, &around, report));
            checks.push(limit(report));
            checks.push(compaction(report));
            checks.push(disk_space(&around, report));
            checks.push(log(&around));
        }
        Err(failure) => checks.push(unopened(failure)),
    }
    checks.extend(around.stray_log.as_deref().map(stray_log));
    checks.push(file_system(&around));
    checks.extend(permissions(&path, &around));
    checks.push(reserve(&around));
    checks.extend(leftovers(&path));
    checks.extend(daemon_checks(status));
    let problems = checks.iter().filter(|c| c.state == State::Problem).count();
    context.out.json(&json!({
        "database": path.display().to_string(),
        "ok": problems == 0,
        "checks": checks,
    }));
    context.out.line(format!("Database     {}", path.display()));
    for check in &checks {
        show(context.out, check);
    }
    Ok(match problems {
        0 => Exit::Ok,
        _ => Exit::Problems,
    })
}

fn show(out: &mut Out, check: &Check) {
    // With --quiet, only what is to be done counts.
    let (state, write): (_, fn(&mut Out, String)) = match check.state {
        State::Ok => ("ok", Out::line),
        State::Note => ("note", Out::line),
        State::Problem => ("PROBLEM", Out::problem),
    };
    write(
        out,
        format!("{:<12} {state:<8} {}", check.check, check.what),
    );
    if let Some(hint) = &check.hint {
        write(out, format!("{:<21} try: {hint}", ""));
    }
}

fn unopened(failure: &Failure) -> Check {
    let hint = match failure.exit {
        Exit::Damaged => "restore a backup: betcode-db restore FILE --replace keeps this one aside",
        _ => failure.hint.as_deref().unwrap_or("see docs/OPERATIONS.md"),
    };
    Check::problem("database", failure.to_string(), hint)
}

fn database(report: &CapacityReport) -> Check {
    let what = format!(
        "{}, {} in {}",
        format::counted(report.sessions, "session"),
        format::counted(report.messages, "message"),
        format::bytes(report.used_bytes())
    );
    Check::ok("database", what)
}

fn file(settings: &FileSettings, around: &Surroundings, report: &CapacityReport) -> Vec<Check> {
    let free = format::bytes(report.free_bytes);
    let hint = "back it up and restore it: betcode-db backup FILE, then restore FILE --replace";
    vec![
        Check::ok(
            "file",
            format!(
                "format {}, SQLite {}",
                settings.format, settings.sqlite_version
            ),
        ),
        match settings.gives_space_back {
            true if is_worth_showing(report.free_bytes, report) => {
                let what = format!("{free} that compacting gives back to the disk");
                Check::note("free pages", what, "betcode-db compact")
            }
            true => Check::ok(
                "free pages",
                format!("{free}; they can be given back to the disk"),
            ),
            false => Check::problem(
                "free pages",
                format!("{free}; they cannot be given back to the disk"),
                hint,
            ),
        },
        match around.write_ahead_log.unwrap_or(settings.write_ahead_log) {
            true => Check::ok("journal", "write-ahead log"),
            false => Check::note(
                "journal",
                "no write-ahead log: this is a copy that nobody has written to",
                "nothing: the next writer turns it on",
            ),
        },
    ]
}

fn limit(report: &CapacityReport) -> Check {
    let free = match is_worth_showing(report.free_bytes, report) {
        true => format!(
            ", of which {} are free for new messages",
            format::bytes(report.free_bytes)
        ),
        false => String::new(),
    };
    let what = format!(
        "{} of {} ({}){free}",
        format::bytes(report.used_bytes()),
        format::bytes(report.limit_bytes),
        used_percent(report.used_bytes(), report.limit_bytes)
    );
    let hint = "betcode-db compact; then retain or delete, or raise --limit-bytes (the daemon's max_db_bytes)";
    match report.level {
        Level::Ok => Check::ok("limit", what),
        Level::Warning => Check::note("limit", what, hint),
        Level::Critical => Check::problem("limit", what, hint),
    }
}

fn compaction(report: &CapacityReport) -> Check {
    let last = report.compaction_runs.first();
    if let Some(failed) = last.filter(|run| run.outcome == RunOutcome::Failed) {
        let what = format!("the last run failed: {}", failed.detail);
        return Check::problem("compaction", what, "betcode-db verify, then compact");
    }
    let saves = format!(
        "it would save about {}{}",
        format::bytes(report.compactable_bytes),
        report.by_the_plan()
    );
    if is_worth_showing(report.compactable_bytes, report) {
        return Check::note("compaction", saves, "betcode-db compact");
    }
    Check::ok("compaction", saves)
}

/// There are always a few new messages and free pages; more than a tenth of the file is worth showing.
fn is_worth_showing(bytes: u64, report: &CapacityReport) -> bool {
    bytes > report.used_bytes() / 10
}

/// Free space on the disk, compared with what the log and a copy need.
fn disk_space(around: &Surroundings, report: &CapacityReport) -> Check {
    let copy = report.database_bytes.saturating_sub(report.free_bytes);
    let Some(free) = around.free_bytes else {
        return Check::note("disk", "does not say how much is free", "look with df");
    };
    let what = format!(
        "{} free; a backup beside it takes {}",
        format::bytes(free),
        format::bytes(copy)
    );
    if free < WAL_BYTES_KEPT_MAX + RESERVE_BYTES_MIN {
        let hint = "free space on that disk, then betcode-db compact";
        return Check::problem("disk", what, hint);
    }
    if report.disk_short_of_limit().is_some() {
        let what = format!("{what}; it is full before the limit is reached");
        let hint = "free space on that disk; compact; or give a --limit-bytes that fits (the daemon's max_db_bytes)";
        return Check::note("disk", what, hint);
    }
    if free < copy {
        return Check::note("disk", what, "back up to another disk");
    }
    Check::ok("disk", what)
}

fn log(around: &Surroundings) -> Check {
    let used = format::bytes(around.wal_bytes);
    if around.wal_bytes > 2 * WAL_BYTES_KEPT_MAX {
        let what = format!("{used}: a reader has held it for long, or a writer was killed");
        let hint = "end what reads the database for long; betcode-db compact makes the log short";
        return Check::note("log", what, hint);
    }
    Check::ok("log", used)
}

fn stray_log(log: &Path) -> Check {
    let what = format!(
        "{} is the log of a database that is not there: it may hold the last messages of it",
        log.display()
    );
    let hint = "put its database back beside it, under the same name; or betcode-db restore FILE \
                --replace, which moves the log aside";
    Check::problem("log", what, hint)
}

fn file_system(around: &Surroundings) -> Check {
    match around.network_file_system {
        None => Check::ok("file system", "local"),
        Some(kind) => Check::problem(
            "file system",
            format!("{kind}: SQLite's locks do not hold across machines"),
            "move the database to a local disk: betcode-db backup FILE, then --db FILE",
        ),
    }
}

fn permissions(path: &Path, around: &Surroundings) -> Vec<Check> {
    let mut open = Vec::new();
    if let Some(place) = &around.unwritable {
        open.push(Check::problem(
            "permissions",
            format!("{} cannot be written to by this user", place.display()),
            format!(
                "chmod u+w {}, run as its owner, or mount its file system for writing; \
                 reading goes on without",
                place.display()
            ),
        ));
    }
    for (what, bits) in [(path, 0o077), (folder_of(path), 0o022)] {
        let Ok(metadata) = fs::metadata(what) else {
            continue;
        };
        let mode = metadata.mode() & 0o7777;
        // In a folder like /tmp nobody can replace what is not theirs.
        if mode & bits != 0 && mode & 0o1000 == 0 {
            let others = if bits == 0o077 { "read" } else { "replace" };
            open.push(Check::problem(
                "permissions",
                format!(
                    "{} has mode {mode:04o}: others may {others} it",
                    what.display()
                ),
                format!("chmod go-rwx {}", what.display()),
            ));
        }
    }
    if open.is_empty() {
        open.push(Check::ok(
            "permissions",
            "only its owner can read and replace it",
        ));
    }
    open
}

fn reserve(around: &Surroundings) -> Check {
    let hint = "free space on that disk: the next writer puts it aside again";
    match around.reserve_bytes {
        Some(0) => Check::problem("reserve", "was given up, because the disk was full", hint),
        None => Check::ok("reserve", "none yet: the next writer puts it aside"),
        Some(bytes) if bytes < RESERVE_BYTES_DEFAULT => Check::note(
            "reserve",
            format!(
                "{} of {}: the disk had little room",
                format::bytes(bytes),
                format::bytes(RESERVE_BYTES_DEFAULT)
            ),
            hint,
        ),
        Some(bytes) => Check::ok(
            "reserve",
            format!(
                "{} kept beside it for a full disk, given up when needed",
                format::bytes(bytes)
            ),
        ),
    }
}

/// Files that killed commands, or restores, have left beside the database.
fn leftovers(path: &Path) -> Vec<Check> {
    let of_database = beside(path).filter_map(|(file, suffix)| {
        let hint = hint_for_leftover(&suffix)?;
        Some((file, hint))
    });
    let found: Vec<(PathBuf, u64, &'static str)> = of_database
        .chain(partial_copies(path).map(|file| (file, HINT_FOR_PARTIAL)))
        .map(|(file, hint)| {
            let bytes = fs::metadata(&file).map_or(0, |metadata| metadata.len());
            (file, bytes, hint)
        })
        .collect();
    if found.is_empty() {
        return vec![Check::ok("leftovers", "none")];
    }
    found
        .into_iter()
        .map(|(file, bytes, hint)| {
            let what = format!("{} ({})", file.display(), format::bytes(bytes));
            Check::note("leftovers", what, hint)
        })
        .collect()
}

/// What is in the database's folder, by name.
fn files_in_folder_of(path: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder_of(path));
    let mut files: Vec<_> = entries
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .collect();
    files.sort();
    files
}

/// How the name of a file continues that of the database.
fn suffix_of(file: &Path, database: &Path) -> Option<String> {
    let name = file.file_name()?.as_encoded_bytes();
    let suffix = name.strip_prefix(database.file_name()?.as_encoded_bytes())?;
    Some(String::from_utf8_lossy(suffix).into_owned())
}

/// The files whose names continue that of the database, and how.
fn beside(path: &Path) -> impl Iterator<Item = (PathBuf, String)> {
    files_in_folder_of(path).into_iter().filter_map(|file| {
        let suffix = suffix_of(&file, path)?;
        Some((file, suffix)).filter(|(_, suffix)| !suffix.is_empty())
    })
}

/// Unfinished copies under other names, as a backup that was killed leaves them.
fn partial_copies(path: &Path) -> impl Iterator<Item = PathBuf> {
    const SQLITE: &[u8; 16] = b"SQLite format 3\0";
    let is_copy = |file: &PathBuf| {
        let mut head = [0; SQLITE.len()];
        let named = file.extension().is_some_and(|ending| ending == "partial");
        // Other programs name what they have not finished so as well. Pipes are not waited for.
        let is_file = named && fs::metadata(file).is_ok_and(|there| there.is_file());
        let read = is_file.then(|| fs::File::open(file).and_then(|mut f| f.read_exact(&mut head)));
        read.is_some_and(|read| read.is_ok()) && head == *SQLITE
    };
    let files = files_in_folder_of(path).into_iter();
    files
        .filter(|file| suffix_of(file, path).is_none())
        .filter(is_copy)
        .collect::<Vec<_>>()
        .into_iter()
}

const HINT_FOR_PARTIAL: &str = "delete it, unless a backup or a restore is running";

fn hint_for_leftover(suffix: &str) -> Option<&'static str> {
    if suffix.starts_with(".partial") {
        return Some(HINT_FOR_PARTIAL);
    }
    if suffix.starts_with(".replaced") {
        return Some("a restore moved it aside; delete it once you do not want it back");
    }
    if suffix.starts_with(".stray") {
        return Some(
            "the log of a database that is gone, or that a restore cut short moved aside without it; \
             delete it if that one is not wanted back",
        );
    }
    if suffix.starts_with(".v") && suffix.ends_with(".backup") {
        return Some(
            "the store before its format was brought up to date; delete it when all is well",
        );
    }
    None
}

fn daemon_checks(status: Option<DaemonStatus>) -> Vec<Check> {
    let Some(daemon) = status else {
        return vec![Check::ok("daemon", "none serves it")];
    };
    let pid = daemon.pid;
    if let Some(why) = daemon.unreachable {
        let what = format!("process {pid} serves it and cannot be asked: {why}");
        let hint = daemon.hint.as_deref();
        return vec![Check::problem(
            "daemon",
            what,
            hint.unwrap_or("look at its log; restart it"),
        )];
    }
    let mut checks: Vec<_> = daemon
        .raised_levels()
        .map(|level| raised_level(pid, level))
        .collect();
    checks.extend(daemon.slow_stages().map(|stage| slow_stage(pid, stage)));
    checks.extend(daemon.compaction_error.map(|why| {
        let what = format!("process {pid}; its last compaction failed: {why}");
        Check::problem("daemon", what, "betcode-db verify")
    }));
    if checks.is_empty() {
        checks.push(Check::ok("daemon", format!("process {pid}")));
    }
    checks
}

fn raised_level(pid: u32, level: &daemon::Level) -> Check {
    let what = format!(
        "process {pid}: {} {} of {}, {}",
        level.resource.replace('_', " "),
        level.amount(level.used),
        level.amount(level.limit),
        level.level
    );
    let hint = level
        .resource
        .parse::<Metric>()
        .map_or("see docs/OPERATIONS.md", Metric::advice);
    match level.level.parse() {
        Ok(Level::Warning) => Check::note("daemon", what, hint),
        _ => Check::problem("daemon", what, hint),
    }
}

fn slow_stage(pid: u32, stage: &daemon::Stage) -> Check {
    let what = format!(
        "process {pid}: {} took {:.1} ms at p95 since it started, of a budget of {:.0} ms",
        stage.stage, stage.p95_ms, stage.budget_ms
    );
    let hint =
        "a slow disk or a busy machine is the usual reason; `betcode-db report` lists all stages";
    Check::note("daemon", what, hint)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn level(resource: &str, level: &str) -> daemon::Level {
        daemon::Level {
            resource: resource.to_owned(),
            used: 20,
            limit: 20,
            unit: "count".to_owned(),
            level: level.to_owned(),
        }
    }

    #[test]
    fn a_daemon_whose_limits_are_reached_or_whose_stages_are_slow_is_not_called_ok() {
        let stage = |p95_ms| daemon::Stage {
            stage: "answer".to_owned(),
            count: 14,
            p50_ms: 1.0,
            p95_ms,
            p99_ms: p95_ms,
            budget_ms: 50.0,
        };
        let status = |levels, stages| DaemonStatus {
            pid: 7,
            levels,
            stages,
            ..DaemonStatus::default()
        };
        let shown = |status| -> Vec<_> {
            let checks = daemon_checks(Some(status)).into_iter();
            checks.map(|check| (check.state, check.what)).collect()
        };
        let ok = status(
            vec![level("sessions", "ok"), level("sqlite_size", "critical")],
            vec![stage(50.0)],
        );
        assert_eq!(shown(ok), [(State::Ok, "process 7".to_owned())]);
        let busy = status(
            vec![level("sessions", "critical"), level("memory", "warning")],
            vec![stage(120.2)],
        );
        let busy = shown(busy);
        let states: Vec<_> = busy.iter().map(|(state, _)| *state).collect();
        assert_eq!(states, [State::Problem, State::Note, State::Note]);
        assert_eq!(busy[0].1, "process 7: sessions 20 of 20, critical");
        assert!(busy[2].1.contains("120.2 ms"), "{}", busy[2].1);
    }

    #[test]
    fn a_daemon_that_says_why_it_cannot_be_asked_says_what_to_try() {
        let status = |hint: Option<&str>| DaemonStatus {
            unreachable: Some("clients: 50 of 50 in use".to_owned()),
            hint: hint.map(str::to_owned),
            ..DaemonStatus::default()
        };
        for (hint, expected) in [
            (Some("close clients"), "close clients"),
            (None, "look at its log; restart it"),
        ] {
            let [check] = daemon_checks(Some(status(hint))).try_into().unwrap();
            assert_eq!(check.hint.as_deref(), Some(expected));
        }
    }
}
