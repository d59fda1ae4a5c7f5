//! What the encoder does with a line, one by one.

/// The codec's techniques: all are in use, except where somebody measures what one of them brings
/// (`segment_codec --without`, see `docs/design/codec.md`). A decoder reads every mixture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Techniques {
    /// Lines are split into shapes and columns at all.
    pub split: bool,
    /// Identifiers as bits, with references back.
    pub identifiers: bool,
    /// Times as differences.
    pub times: bool,
    /// Integers as differences, in columns.
    pub integers: bool,
    /// Numbers of lines are taken out of listings.
    pub line_numbers: bool,
    /// Base64 as bytes.
    pub base64: bool,
    /// The lines of a patch as one text.
    pub patches: bool,
    /// A string said before is named, not said again.
    pub repeats: bool,
    /// Words that tell lines apart stay in their shapes.
    pub words: bool,
    /// Long repeats are taken out before zstd.
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

    /// Lines kept whole: what is left when a split does not come back.
    pub(super) const WHOLE_LINES: Self = Self {
        split: false,
        ..Self::ALL
    };

    /// All but one, by its field's name; `None` if there is none of that name.
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
