//! Which project a session belongs to: those of one project share a base.

use crate::error::Result;
use crate::session::{Session, SessionFilter};
use crate::sql;
use crate::store::Store;

impl Store {
    /// The session's working directory. One that names none belongs with those imported from its
    /// folder, if they agree on one; else to the project without a name.
    pub(super) fn project_of(&self, session: &Session) -> Result<String> {
        let own = &session.meta.working_directory;
        if !own.is_empty() {
            return Ok(own.clone());
        }
        let source = self.query("find the imported file", |c| {
            sql::imports::source_path(c, session.key)
        })?;
        let Some(folder) = source.as_deref().and_then(folder_of) else {
            return Ok(String::new());
        };
        let directories = self.query("find the sessions beside it", |c| {
            sql::imports::directories_below(c, folder)
        })?;
        Ok(match <[String; 1]>::try_from(directories) {
            Ok([only]) => only,
            Err(_) => String::new(),
        })
    }

    /// The sessions that name no directory, each with its project.
    pub(super) fn adopted(&self) -> Result<Vec<(String, Session)>> {
        let filter = SessionFilter {
            working_directory: Some(String::new()),
            ..SessionFilter::default()
        };
        let sessions = self.sessions(&filter)?.sessions;
        sessions
            .into_iter()
            .map(|session| Ok((self.project_of(&session)?, session)))
            .collect()
    }
}

/// The path up to its last separator, that included.
fn folder_of(path: &[u8]) -> Option<&[u8]> {
    let separator = path.iter().rposition(|c| matches!(c, b'/' | b'\\'))?;
    path.get(..=separator)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_a_path_up_to_its_last_separator() {
        assert_eq!(folder_of(b"/a/b/c.jsonl"), Some(&b"/a/b/"[..]));
        assert_eq!(folder_of(br"C:\a\c.jsonl"), Some(&br"C:\a\"[..]));
        assert_eq!(folder_of(b"c.jsonl"), None);
    }
}
