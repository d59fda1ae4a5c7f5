//! Which project a session belongs to: those of one project share a base.
//!
//! A session recorded live belongs to its working directory. Of an imported one the place of its
//! file says more: agents change directory, so the sessions of one project, and a session and its
//! sub-agents, name several. Claude Code keeps a project's transcripts in one folder (those of
//! sub-agents below it), and people copy them together.

use std::collections::{BTreeMap, HashMap};

use crate::error::Result;
use crate::ids::SessionKey;
use crate::sql;
use crate::sql::imports::Origin;
use crate::store::Store;

/// The project of each session.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Projects(HashMap<SessionKey, String>);

impl Projects {
    /// The project that a session belongs to; empty is the project without a name.
    pub(super) fn of(&self, session: SessionKey) -> &str {
        self.0.get(&session).map_or("", String::as_str)
    }
}

impl Store {
    /// The projects of all sessions.
    pub(super) fn projects(&self) -> Result<Projects> {
        let origins = self.query("find where the sessions come from", |connection| {
            let origins = sql::imports::origins(connection);
            sql::damaged::or_else(origins, || sql::damaged::origins(connection))
        })?;
        Ok(assign(&origins))
    }
}

/// An imported session belongs to the directory that most bytes of its folder name. In a folder
/// that holds a day's sessions of any project, one that names a directory belongs to that, and one
/// that names none belongs with its neighbours if they agree.
fn assign(origins: &[Origin]) -> Projects {
    let mut spelled: HashMap<String, BTreeMap<&str, u64>> = HashMap::new();
    for origin in origins {
        let directory = origin.working_directory.as_str();
        let spellings = spelled.entry(without_drive_case(directory)).or_default();
        *spellings.entry(directory).or_default() += origin.raw_bytes;
    }
    // One spelling for all of a directory, and one that a session names: reports look for it.
    let spelling = |directory: &str| {
        let spellings = spelled.get(&without_drive_case(directory));
        let most = spellings.and_then(|all| all.iter().rev().max_by_key(|(_, bytes)| **bytes));
        most.map_or(directory, |(directory, _)| directory)
            .to_owned()
    };
    let folders: Vec<Option<&[u8]>> = origins
        .iter()
        .map(|origin| home_folder(origin.source_path.as_deref()?))
        .collect();
    let mut bytes_named: HashMap<&[u8], BTreeMap<String, (u64, &str)>> = HashMap::new();
    for (origin, folder) in origins.iter().zip(&folders) {
        if let Some(folder) = folder
            && !origin.working_directory.is_empty()
        {
            let directories = bytes_named.entry(folder).or_default();
            let named = directories
                .entry(without_drive_case(&origin.working_directory))
                .or_insert((0, &origin.working_directory));
            named.0 += origin.raw_bytes;
        }
    }
    let project = |(origin, folder): (&Origin, &Option<&[u8]>)| {
        let own = &origin.working_directory;
        let named = folder.and_then(|folder| bytes_named.get(folder));
        let (Some(folder), Some(named)) = (folder, named) else {
            return spelling(own);
        };
        let of_any_project = is_day(folder);
        if of_any_project && (!own.is_empty() || named.len() > 1) {
            return spelling(own);
        }
        // Of equals the first by name, so that the project does not hang on the order of rows.
        let most = named.values().rev().max_by_key(|(bytes, _)| bytes);
        most.map_or_else(|| spelling(own), |(_, directory)| spelling(directory))
    };
    let projects = origins.iter().zip(&folders).map(project);
    Projects(origins.iter().map(|o| o.session).zip(projects).collect())
}

/// The folder of a transcript: that of the session for its sub-agents', which stand in
/// `<session>/subagents/`.
fn home_folder(path: &[u8]) -> Option<&[u8]> {
    let (folder, _) = split(path)?;
    match split(folder) {
        Some((session, b"subagents")) => split(session).map(|(home, _)| home),
        _ => Some(folder),
    }
}

/// What stands before and after the last separator.
fn split(path: &[u8]) -> Option<(&[u8], &[u8])> {
    let separator = path.iter().rposition(|c| matches!(c, b'/' | b'\\'))?;
    Some((path.get(..separator)?, path.get(separator + 1..)?))
}

/// Whether a folder is named by a number: Codex keeps its sessions by year, month and day.
fn is_day(folder: &[u8]) -> bool {
    let name = split(folder).map_or(folder, |(_, name)| name);
    !name.is_empty() && name.iter().all(u8::is_ascii_digit)
}

/// Windows' programs write the drive's letter either way.
fn without_drive_case(directory: &str) -> String {
    let mut directory = directory.to_owned();
    if directory.as_bytes().get(1) == Some(&b':')
        && let Some(drive) = directory.get_mut(..1)
    {
        drive.make_ascii_uppercase();
    }
    directory
}

#[cfg(test)]
mod tests {
    use super::*;

    fn projects(sessions: &[(&str, &str, u64)]) -> Vec<String> {
        let origins: Vec<Origin> = sessions
            .iter()
            .zip(1..)
            .map(|(&(path, directory, raw_bytes), key)| Origin {
                session: SessionKey(key),
                working_directory: directory.to_owned(),
                source_path: (!path.is_empty()).then(|| path.as_bytes().to_vec()),
                raw_bytes,
            })
            .collect();
        let projects = assign(&origins);
        origins
            .iter()
            .map(|origin| projects.of(origin.session).to_owned())
            .collect()
    }

    #[test]
    fn a_live_session_belongs_to_its_directory() {
        assert_eq!(projects(&[("", "/a", 9), ("", "", 9)]), ["/a", ""]);
    }

    #[test]
    fn a_folder_belongs_to_the_directory_that_most_of_its_bytes_name() {
        let sessions = [
            ("/p/-a/1.jsonl", "/a", 5),
            ("/p/-a/2.jsonl", "/a/web", 4),
            ("/p/-a/3.jsonl", "", 90),
            ("/p/-b/4.jsonl", "/b", 1),
            ("", "/a/web", 7),
        ];
        assert_eq!(projects(&sessions), ["/a", "/a", "/a", "/b", "/a/web"]);
    }

    #[test]
    fn sub_agents_belong_with_their_session() {
        let sessions = [
            ("/p/-a/1.jsonl", "/a", 5),
            ("/p/-a/1/subagents/agent-7.jsonl", "/elsewhere", 4),
        ];
        assert_eq!(projects(&sessions), ["/a", "/a"]);
        let windows = [
            (r"C:\p\-a\1.jsonl", r"c:\a", 5),
            (r"C:\p\-a\2.jsonl", r"C:\a", 4),
            (r"C:\p\-a\3.jsonl", r"C:\b", 6),
        ];
        assert_eq!(projects(&windows), [r"c:\a"; 3]);
        let spelled = [("", r"c:\a", 5), ("", r"C:\a", 9)];
        assert_eq!(projects(&spelled), [r"C:\a"; 2]);
    }

    #[test]
    fn a_day_holds_sessions_of_any_project() {
        let sessions = [
            ("/c/2026/06/18/1.jsonl", "/a", 5),
            ("/c/2026/06/18/2.jsonl", "/b", 50),
            ("/c/2026/06/18/3.jsonl", "", 1),
            ("/c/2026/06/19/4.jsonl", "/a", 5),
            ("/c/2026/06/19/5.jsonl", "", 1),
        ];
        assert_eq!(projects(&sessions), ["/a", "/b", "", "/a", "/a"]);
    }

    #[test]
    fn equals_are_told_apart_by_name() {
        let sessions = [("/p/1.jsonl", "/b", 5), ("/p/2.jsonl", "/a", 5)];
        assert_eq!(projects(&sessions), ["/a", "/a"]);
    }

    #[test]
    fn a_folder_that_names_nothing_has_no_project() {
        assert_eq!(
            projects(&[("/p/1.jsonl", "", 5), ("1.jsonl", "", 5)]),
            ["", ""]
        );
    }
}
