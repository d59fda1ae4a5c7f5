//! The techniques that make segments small, so that each can be measured.

/// What the encoder does with lines. Everything is in use, except where somebody measures what one technique
/// brings (`segment_codec --techniques`, see `docs/design/codec.md`). A decoder reads every combination.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Techniques {
    /// Lines are split into shapes and columns at all.
    pub split: bool,
    /// Identifiers are stored as bits, with back references.
    pub identifiers: bool,
    /// Times are stored as differences.
    pub times: bool,
    /// Integers are stored in columns, as differences if that is smaller.
    pub integers: bool,
    /// Line numbers are taken out of listings.
    pub line_numbers: bool,
    /// Base64 is stored as bytes.
    pub base64: bool,
    /// The lines of a patch are stored as one text.
    pub patches: bool,
    /// A string that occurred before is stored as a back reference.
    pub repeats: bool,
    /// Words that say what a line is stay in its shape.
    pub words: bool,
    /// Long repeats are replaced by back references before zstd.
    pub copies: bool,
}

impl Techniques {
    /// What every segment is encoded with.
    pub const ALL: Self = Self {
        split: true,
        identifiers: true,
        times: true,
        integers: true,
        line_numbers: true,
        base64: true,
        patches: true,
        repeats: true,
        words: true,
        copies: true,
    };

    /// Lines kept whole, for when split ones do not come back.
    pub(super) const WHOLE_LINES: Self = Self {
        split: false,
        ..Self::ALL
    };

    /// All but the one with this name; `None` if there is none.
    #[must_use]
    pub fn without(name: &str) -> Option<Self> {
        let mut techniques = Self::ALL;
        *techniques
            .by_name()
            .into_iter()
            .find(|(known, _)| *known == name)?
            .1 = false;
        Some(techniques)
    }

    /// The names that [`Techniques::without`] takes.
    #[must_use]
    pub fn names() -> Vec<&'static str> {
        let mut techniques = Self::ALL;
        techniques
            .by_name()
            .into_iter()
            .map(|(name, _)| name)
            .collect()
    }

    fn by_name(&mut self) -> [(&'static str, &mut bool); 10] {
        [
            ("split", &mut self.split),
            ("identifiers", &mut self.identifiers),
            ("times", &mut self.times),
            ("integers", &mut self.integers),
            ("line_numbers", &mut self.line_numbers),
            ("base64", &mut self.base64),
            ("patches", &mut self.patches),
            ("repeats", &mut self.repeats),
            ("words", &mut self.words),
            ("copies", &mut self.copies),
        ]
    }
}

impl Default for Techniques {
    fn default() -> Self {
        Self::ALL
    }
}
