//! The beginning of a text, for lists.

use crate::limits::PREVIEW_BYTES_MAX;

/// One line of at most [`PREVIEW_BYTES_MAX`] bytes, cut at a character; `None` without a word.
pub(super) fn of(text: &str) -> Option<String> {
    let mut preview = String::new();
    for word in text.split_whitespace() {
        if !preview.is_empty() {
            preview.push(' ');
        }
        // A word may be the whole of a long text: no more of it than can be shown.
        let shown = word.get(..word.ceil_char_boundary(PREVIEW_BYTES_MAX + 1));
        preview.push_str(shown.unwrap_or(word));
        if preview.len() > PREVIEW_BYTES_MAX {
            preview.truncate(preview.floor_char_boundary(PREVIEW_BYTES_MAX - '…'.len_utf8()));
            preview.push('…');
            break;
        }
    }
    (!preview.is_empty()).then_some(preview)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_stand_in_one_line() {
        assert_eq!(of("  two\n words ").as_deref(), Some("two words"));
        assert_eq!(of(" \n"), None);
    }

    #[test]
    fn a_long_text_is_cut_at_a_character() {
        for text in ["ä".repeat(500), "ä ".repeat(500), "a".repeat(161)] {
            let preview = of(&text).unwrap();
            assert!(
                preview.len() <= PREVIEW_BYTES_MAX && preview.ends_with('…'),
                "{preview}"
            );
        }
        assert_eq!(of(&"a".repeat(160)), Some("a".repeat(160)));
    }
}
