//! The title that an agent's lines give to their session.

use serde::{Deserialize, Serialize};

/// A title, and who gave it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Title {
    /// One line.
    #[serde(rename = "t", alias = "text")]
    pub text: String,
    /// Given by the agent's user; else by the agent.
    #[serde(
        rename = "u",
        alias = "by_user",
        skip_serializing_if = "std::ops::Not::not"
    )]
    pub by_user: bool,
}

impl Title {
    pub(crate) fn is_empty(&self) -> bool {
        self.text.is_empty()
    }

    /// Replaces the title by one told later, unless that one was made by the agent and this one was not.
    /// A session that is named by its title, or not at all, gets the new one as its name.
    pub(crate) fn follow(&mut self, told: &Self, name: &mut String) {
        if self.by_user && !told.by_user {
            return;
        }
        if name.is_empty() || *name == self.text {
            name.clone_from(&told.text);
        }
        self.clone_from(told);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn title(text: &str, by_user: bool) -> Title {
        let text = text.to_owned();
        Title { text, by_user }
    }

    #[test]
    fn the_last_title_is_the_name_and_what_the_user_gave_goes_before_what_the_agent_made() {
        let (mut kept, mut name) = (Title::default(), String::new());
        for (told, by_user, named) in [
            ("made", false, "made"),
            ("made later", false, "made later"),
            ("given", true, "given"),
            ("made again", false, "given"),
            ("given later", true, "given later"),
        ] {
            kept.follow(&title(told, by_user), &mut name);
            assert_eq!(name, named);
        }
    }

    #[test]
    fn a_name_from_elsewhere_stays() {
        let (mut kept, mut name) = (Title::default(), "mine".to_owned());
        kept.follow(&title("made", false), &mut name);
        kept.follow(&title("given", true), &mut name);
        assert_eq!(name, "mine");
    }
}
