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

    /// Replaces the title by a later one, unless the user gave this one and the agent made the later one. A
    /// session that has no name, or the old title as its name, is named by the new title.
    pub(crate) fn update(&mut self, later: &Self, name: &mut String) {
        if self.by_user && !later.by_user {
            return;
        }
        if name.is_empty() || *name == self.text {
            name.clone_from(&later.text);
        }
        self.clone_from(later);
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
    fn the_last_title_is_the_name_and_one_of_the_user_goes_before_one_of_the_agent() {
        let (mut kept, mut name) = (Title::default(), String::new());
        for (text, by_user, named) in [
            ("made", false, "made"),
            ("made later", false, "made later"),
            ("given", true, "given"),
            ("made again", false, "given"),
            ("given later", true, "given later"),
        ] {
            kept.update(&title(text, by_user), &mut name);
            assert_eq!(name, named);
        }
    }

    #[test]
    fn a_name_from_elsewhere_stays() {
        let (mut kept, mut name) = (Title::default(), "mine".to_owned());
        kept.update(&title("made", false), &mut name);
        kept.update(&title("given", true), &mut name);
        assert_eq!(name, "mine");
    }
}
