//! Recognises files that do not hold lines by their first bytes.

const MAGICS: [(&[u8], &str); 14] = [
    (b"SQLite format 3\0", "an SQLite database"),
    (b"\x7fELF", "a program"),
    (b"\xcf\xfa\xed\xfe", "a program"),
    (b"MZ\x90\0", "a program"),
    (b"PK\x03\x04", "a zip archive"),
    (b"\x1f\x8b\x08", "gzip"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
    (b"\xfd7zXZ\0", "xz"),
    (b"BZh91AY&SY", "bzip2"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
    (b"\x04\x22\x4d\x18", "lz4"),
    (b"\x89PNG\r\n\x1a\n", "an image"),
    (b"\xff\xd8\xff\xe0", "an image"),
    (b"%PDF-", "a PDF"),
];

/// What the file is, if its beginning shows that it does not hold lines. A file whose name says that it has lines
/// may contain any bytes, also NUL, so only a known magic number counts against it.
#[must_use]
pub fn not_lines(head: &[u8], named_as_lines: bool) -> Option<&'static str> {
    let known = MAGICS
        .iter()
        .find(|(magic, _)| head.starts_with(magic))
        .map(|(_, name)| *name);
    let binary = || (!named_as_lines && head.contains(&0)).then_some("binary data");
    known.or_else(binary)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn databases_programs_and_archives_are_recognised_under_any_name() {
        for head in [
            &b"SQLite format 3\0...."[..],
            b"\x7fELF\x02\x01",
            b"\x1f\x8b\x08\0",
        ] {
            assert!(not_lines(head, true).is_some());
        }
    }

    #[test]
    fn nul_bytes_speak_only_against_files_that_do_not_claim_to_hold_lines() {
        assert_eq!(not_lines(b"{}\n\0\0\0", true), None);
        assert_eq!(not_lines(b"{}\n\0\0\0", false), Some("binary data"));
        assert_eq!(not_lines(b"\xff\xfe prose", false), None);
        assert_eq!(not_lines(b"", false), None);
    }
}
