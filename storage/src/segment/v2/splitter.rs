//! Takes lines apart into shapes and columns.
//!
//! [`Splitter::line`] goes over the tokens of a line from left to right. What is between two values is
//! appended to the shape, and each value is written to its column. An array is a value of its own: it says how
//! many elements it has and which shape each of them has, so that arrays of different lengths have one shape.
//! [`super::joiner`] undoes it.

use xxhash_rust::xxh3::xxh3_64;

use super::columns::{Columns, HashMapOf};
use super::forms::{self, Id};
use super::ids::{BaseIds, IdWriter};
use super::json::{Token, tokenize};
use super::shape::{self, CONTEXT, END, Kind};
use super::techniques::Techniques;
use super::text::{strip_numbers, unescape};
use super::varint::{put, zigzag};
use crate::limits::SEGMENT_COLUMNS_MAX;

/// Shorter base64 is left as text.
const BASE64_BYTES_MIN: usize = 128;
/// Keys whose short values say what a line is. These values stay in the shape: they mostly go with the line's other
/// keys, so that the number of the shape says them as well.
const SHAPING_KEYS: [&[u8]; 12] = [
    b"type",
    b"subtype",
    b"role",
    b"name",
    b"status",
    b"stop_reason",
    b"model",
    b"hook_event",
    b"hookEvent",
    b"operation",
    b"service_tier",
    b"kind",
];
/// Length of such a value.
const SHAPING_BYTES_MAX: usize = 32;
/// Different values of one such key that may stay in shapes.
const SHAPING_VALUES_MAX: usize = 40;
/// The longest time zone, `+00:00`. If more follows, the string is not taken for a time.
const ZONE_BYTES_MAX: usize = 6;

/// Blobs of the base that a segment may refer to: the number of each, by the hash of its bytes.
pub(super) type BaseBlobs = HashMapOf<u128, u32>;

/// Lines taken apart.
#[derive(Debug, Default)]
pub(super) struct Splitter<'a> {
    pub(super) columns: Columns,
    pub(super) ids: IdWriter<'a>,
    /// For each line 0 if it is kept whole, else the number of its shape plus one.
    pub(super) lines: Vec<u8>,
    /// All shapes, each with its end mark.
    pub(super) shapes: Vec<u8>,
    /// When `shapes` would be longer than this, `shapes_overflow` is set.
    shapes_bytes_max: usize,
    /// What was split is of no use, because not all its shapes are kept.
    pub(super) shapes_overflow: bool,
    /// The number of each shape, by its hash.
    shape_numbers: HashMapOf<u64, u32>,
    base_blobs: Option<&'a BaseBlobs>,
    /// Hashes of the values that stay in shapes, by the hash of their key.
    shaping: HashMapOf<u64, Vec<u64>>,
    /// The last time in a line, which the next one is a difference from.
    last_ms: i64,
    scratch: Scratch,
    techniques: Techniques,
}

/// Buffers that are used again for each line.
#[derive(Debug, Default)]
struct Scratch {
    tokens: Vec<Token>,
    /// A string, unescaped.
    text: Vec<u8>,
    /// That without its line numbers, or the lines of a patch without their first characters.
    bare: Vec<u8>,
    /// What was taken out for `bare`, as it goes to the column's aux.
    aux: Vec<u8>,
    /// Shapes under construction, one for each depth of arrays.
    shapes: Vec<Vec<u8>>,
}

/// A walk over the tokens of a line.
struct Walk<'l> {
    line: &'l [u8],
    tokens: &'l [Token],
    /// Index of the next token.
    next: usize,
    /// How many arrays are around it.
    depth: usize,
}

impl<'a> Splitter<'a> {
    pub(super) fn new(
        base_blobs: Option<&'a BaseBlobs>,
        base_ids: Option<&'a BaseIds>,
        techniques: Techniques,
        shapes_bytes_max: usize,
    ) -> Self {
        let mut splitter = Self {
            shapes_bytes_max,
            base_blobs,
            ids: IdWriter::new(base_ids),
            techniques,
            columns: Columns::new(techniques.repeats),
            ..Self::default()
        };
        splitter.columns.index(Kind::Raw, b"");
        splitter
    }

    /// Takes a line apart, or keeps it whole if it is not JSON or exceeds a bound.
    pub(super) fn line(&mut self, line: &[u8]) {
        let mut tokens = std::mem::take(&mut self.scratch.tokens);
        let splits = self.techniques.split
            && !self.shapes_overflow
            && tokenize(line, &mut tokens)
            && self.has_room_for_columns(line, &tokens);
        if splits {
            let mut walk = Walk {
                line,
                tokens: &tokens,
                next: 0,
                depth: 0,
            };
            let (shape, _) = self.shape(&mut walk, 0, b"");
            put(&mut self.lines, u64::from(shape) + 1);
        } else {
            let column = self.columns.index(Kind::Raw, b"");
            self.columns.put_string(column, line, |_| None);
            put(&mut self.lines, 0);
        }
        self.scratch.tokens = tokens;
    }

    /// Whether the line's keys leave the number of columns within bounds. An estimate: most keys
    /// have one kind of value. If it is wrong, the segment's verification finds out.
    fn has_room_for_columns(&self, line: &[u8], tokens: &[Token]) -> bool {
        let room = SEGMENT_COLUMNS_MAX.saturating_sub(self.columns.len());
        if tokens.len() <= room {
            return true;
        }
        let mut keys: HashMapOf<u64, ()> = HashMapOf::default();
        for token in tokens {
            if let Token::Key { start, end } = *token {
                keys.insert(xxh3_64(&line[start as usize..end as usize]), ());
            }
        }
        keys.len() * 2 + 16 <= room
    }

    /// Takes apart a line, or an array's element that begins at `from` and ends before the next comma
    /// or bracket of the array. `context` is the key of values before the first key in it. Returns the
    /// number of its shape, and where it ends.
    fn shape(&mut self, walk: &mut Walk<'_>, from: usize, context: &[u8]) -> (u32, usize) {
        if self.scratch.shapes.len() <= walk.depth {
            self.scratch.shapes.push(Vec::new());
        }
        let mut shape = std::mem::take(&mut self.scratch.shapes[walk.depth]);
        shape.clear();
        let line = walk.line;
        // Where the bytes of the line begin that are not in the shape yet.
        let mut literal_from = from;
        let mut key = context;
        let mut uses_context = false;
        let end = loop {
            let Some(&token) = walk.tokens.get(walk.next) else {
                break line.len();
            };
            walk.next += 1;
            let start = match token {
                Token::Key { .. } => continue,
                Token::ArrayComma { at } | Token::ArrayClose { at } => {
                    walk.next -= 1;
                    break at as usize;
                }
                Token::Text { start, .. } | Token::Number { start, .. } => start as usize,
                Token::ArrayOpen { at } => at as usize,
            };
            let found = shape::last_key(&line[literal_from..start]);
            let value_key = found.unwrap_or(key);
            let Some(span) = self.value(walk, token, value_key) else {
                // It stays in the shape, with the literal bytes around it.
                continue;
            };
            uses_context |= found.is_none() && std::ptr::eq(key, context);
            key = value_key;
            shape.extend_from_slice(&line[literal_from..span.start]);
            shape.push(span.kind as u8);
            literal_from = span.end;
        };
        shape.extend_from_slice(&line[literal_from..end]);
        if uses_context && !context.is_empty() {
            let front = context.iter().copied().chain([CONTEXT]);
            shape.splice(0..0, front);
        }
        shape.push(END);
        let number = self.intern(&shape);
        if self.shapes_overflow {
            walk.tokens = &[];
        }
        self.scratch.shapes[walk.depth] = shape;
        (number, end)
    }

    /// The number of a shape, which is kept if it is new.
    fn intern(&mut self, shape: &[u8]) -> u32 {
        let next = self.shape_numbers.len() as u32;
        let number = *self.shape_numbers.entry(xxh3_64(shape)).or_insert(next);
        if number == next {
            self.shapes_overflow |= self.shapes.len() + shape.len() > self.shapes_bytes_max;
            if !self.shapes_overflow {
                self.shapes.extend_from_slice(shape);
            }
        }
        number
    }

    /// Writes the value at `token` to its column, unless it stays in the shape.
    fn value(&mut self, walk: &mut Walk<'_>, token: Token, key: &[u8]) -> Option<ValueSpan> {
        match token {
            Token::Text {
                start,
                end,
                has_escapes,
                has_controls,
            } => {
                let (start, end) = (start as usize, end as usize);
                let body = &walk.line[start..end];
                if has_controls {
                    return Some(self.string(Kind::Verbatim, key, body, start));
                }
                if has_escapes {
                    self.text(key, body, start)
                } else {
                    self.plain(key, body, start)
                }
            }
            Token::Number { start, end } => {
                let (start, end) = (start as usize, end as usize);
                let body = &walk.line[start..end];
                if self.techniques.integers
                    && let Some(value) = forms::parse_integer(body)
                {
                    self.columns.at(Kind::Integer, key).integers.push(value);
                    return Some(ValueSpan {
                        kind: Kind::Integer,
                        start,
                        end,
                    });
                }
                Some(self.string(Kind::Number, key, body, start))
            }
            Token::ArrayOpen { at } => Some(self.array(walk, at as usize, key)),
            Token::Key { .. } | Token::ArrayComma { .. } | Token::ArrayClose { .. } => None,
        }
    }

    /// A string without escapes: an identifier, a time, base64, a word that stays in the shape, or text.
    fn plain(&mut self, key: &[u8], body: &[u8], start: usize) -> Option<ValueSpan> {
        if self.techniques.identifiers
            && let Some((kind, id, prefix)) = identifier(body)
        {
            let now_ms = self.last_ms;
            let column = self.columns.at(kind, key);
            self.ids
                .put(kind, id, &mut column.last_id, &mut column.codes, now_ms);
            return Some(ValueSpan {
                kind,
                start: start + prefix,
                end: start + body.len(),
            });
        }
        if self.techniques.times
            && let Some((time, taken)) = forms::parse_time(body)
            && body.len() - taken <= ZONE_BYTES_MAX
        {
            return Some(self.time(key, time, start, start + taken));
        }
        if self.techniques.base64 && body.len() >= BASE64_BYTES_MIN {
            let prefix = data_url_prefix(body);
            let (start, body) = (start + prefix, &body[prefix..]);
            if let Some((kind, bytes)) = base64(body) {
                return Some(self.string_from(kind, key, &bytes, start, body.len()));
            }
        }
        if self.stays_in_shape(key, body) {
            return None;
        }
        self.text(key, body, start)
    }

    fn time(&mut self, key: &[u8], time: forms::Time, start: usize, end: usize) -> ValueSpan {
        let kind = match time.digits {
            0 => Kind::TimeS,
            3 => Kind::TimeMs,
            _ => Kind::TimeUs,
        };
        let since = time.ms.wrapping_sub(self.last_ms);
        self.last_ms = time.ms;
        let column = self.columns.at(kind, key);
        put(&mut column.codes, zigzag(since));
        if kind == Kind::TimeUs {
            put(&mut column.aux, u64::from(time.us));
        }
        ValueSpan { kind, start, end }
    }

    /// Whether a string stays in the shape: a word under a key that says what the line is.
    fn stays_in_shape(&mut self, key: &[u8], body: &[u8]) -> bool {
        let is_word = self.techniques.words
            && body.len() <= SHAPING_BYTES_MAX
            && SHAPING_KEYS.contains(&key)
            && body.iter().all(|c| c.is_ascii_graphic());
        if !is_word {
            return false;
        }
        let values = self.shaping.entry(xxh3_64(key)).or_default();
        let hash = xxh3_64(body);
        if values.contains(&hash) {
            return true;
        }
        let is_one_more = values.len() < SHAPING_VALUES_MAX;
        if is_one_more {
            values.push(hash);
        }
        is_one_more
    }

    /// Text, unescaped if that can be undone, and without the numbers of its lines.
    fn text(&mut self, key: &[u8], body: &[u8], start: usize) -> Option<ValueSpan> {
        let mut scratch = std::mem::take(&mut self.scratch);
        let span = if !unescape(body, &mut scratch.text) {
            self.string(Kind::Verbatim, key, body, start)
        } else if self.techniques.line_numbers
            && strip_numbers(&scratch.text, &mut scratch.bare, &mut scratch.aux)
        {
            let span = self.string_from(Kind::Numbered, key, &scratch.bare, start, body.len());
            self.columns
                .at(Kind::Numbered, key)
                .aux
                .extend_from_slice(&scratch.aux);
            span
        } else {
            self.string_from(Kind::Text, key, &scratch.text, start, body.len())
        };
        self.scratch = scratch;
        Some(span)
    }

    /// A string as it stands at `start` of its line.
    fn string(&mut self, kind: Kind, key: &[u8], body: &[u8], start: usize) -> ValueSpan {
        self.string_from(kind, key, body, start, body.len())
    }

    /// A string that is `value` once it is decoded, and takes `taken` bytes of its line.
    fn string_from(
        &mut self,
        kind: Kind,
        key: &[u8],
        value: &[u8],
        start: usize,
        taken: usize,
    ) -> ValueSpan {
        let column = self.columns.index(kind, key);
        let blobs = if kind.base64().is_some() {
            self.base_blobs
        } else {
            None
        };
        self.columns
            .put_string(column, value, |hash| blobs?.get(&hash).copied());
        ValueSpan {
            kind,
            start,
            end: start + taken,
        }
    }

    /// An array: how many elements it has, and the shape of each.
    fn array(&mut self, walk: &mut Walk<'_>, open: usize, key: &[u8]) -> ValueSpan {
        if self.techniques.patches
            && key == b"lines"
            && let Some(end) = self.patch_lines(walk, open)
        {
            return ValueSpan {
                kind: Kind::PatchLines,
                start: open,
                end,
            };
        }
        let mut element_key = Vec::with_capacity(key.len() + 2);
        element_key.extend_from_slice(key);
        element_key.extend_from_slice(b"[]");
        let column = self.columns.index(Kind::Array, key);
        // The entry is reserved now, because an array inside may belong to the same column and comes later.
        let position = self.columns.all[column].arrays.len();
        self.columns.all[column].arrays.push(Vec::new());
        let mut elements = Vec::new();
        let mut at = open + 1;
        if let Some(Token::ArrayClose { at: close }) = walk.tokens.get(walk.next)
            && walk.line[at..*close as usize].is_empty()
        {
            at = *close as usize;
        } else {
            loop {
                walk.depth += 1;
                let (shape, end) = self.shape(walk, at, &element_key);
                walk.depth -= 1;
                elements.push(shape);
                at = end;
                match walk.tokens.get(walk.next) {
                    Some(Token::ArrayComma { .. }) => {
                        walk.next += 1;
                        at += 1;
                    }
                    _ => break,
                }
            }
        }
        walk.next += 1;
        self.columns.all[column].arrays[position] = elements;
        ValueSpan {
            kind: Kind::Array,
            start: open,
            end: at + 1,
        }
    }

    /// An array of the lines of a patch, with nothing between them but commas. Its lines are joined as one
    /// text without their first characters, which then repeats the file's text. Single strings with these
    /// characters would not.
    fn patch_lines(&mut self, walk: &mut Walk<'_>, open: usize) -> Option<usize> {
        let mut scratch = std::mem::take(&mut self.scratch);
        scratch.bare.clear();
        scratch.aux.clear();
        let found = gather_patch(walk, open, &mut scratch);
        if found.is_some() {
            let column = self.columns.index(Kind::PatchLines, b"lines");
            self.columns.put_string(column, &scratch.bare, |_| None);
            let aux = &mut self.columns.all[column].aux;
            put(aux, scratch.aux.len() as u64);
            aux.extend_from_slice(&scratch.aux);
        }
        self.scratch = scratch;
        let (end, tokens_taken) = found?;
        walk.next += tokens_taken;
        Some(end)
    }
}

/// A value in its line: its kind, and the bytes that the marker replaces.
struct ValueSpan {
    kind: Kind,
    start: usize,
    end: usize,
}

/// Collects the first characters in `scratch.aux` and the lines in `scratch.bare`. Returns where the array
/// ends and how many tokens it takes.
fn gather_patch(walk: &Walk<'_>, open: usize, scratch: &mut Scratch) -> Option<(usize, usize)> {
    let mut at = open + 1;
    let mut tokens = walk.tokens.get(walk.next..)?.iter();
    let mut taken = 0;
    loop {
        let Some(&Token::Text {
            start,
            end,
            has_controls: false,
            ..
        }) = tokens.next()
        else {
            return None;
        };
        let (start, end) = (start as usize, end as usize);
        if start != at + 1 || !unescape(&walk.line[start..end], &mut scratch.text) {
            return None;
        }
        let (&first, rest) = scratch.text.split_first()?;
        if !matches!(first, b' ' | b'+' | b'-' | b'\\') || rest.contains(&b'\n') {
            return None;
        }
        scratch.aux.push(first);
        scratch.bare.extend_from_slice(rest);
        scratch.bare.push(b'\n');
        taken += 2;
        match *tokens.next()? {
            Token::ArrayComma { at: comma } if comma as usize == end + 1 => at = end + 2,
            Token::ArrayClose { at: close } if close as usize == end + 1 => {
                return Some((end + 2, taken));
            }
            _ => return None,
        }
    }
}

/// Length of the `data:image/png;base64,` of a data URL, which stays in the shape.
fn data_url_prefix(body: &[u8]) -> usize {
    const PREFIX_BYTES_MAX: usize = 64;
    const ENCODING: &[u8] = b";base64,";
    let begin = &body[..body.len().min(PREFIX_BYTES_MAX)];
    if !begin.starts_with(b"data:") {
        return 0;
    }
    memchr::memmem::find(begin, ENCODING).map_or(0, |at| at + ENCODING.len())
}

/// The kind of base64 that `body` is, and its bytes. A JPEG stays text: alone it takes the same space either
/// way, but pictures of one screen share passages, which are found in text only.
fn base64(body: &[u8]) -> Option<(Kind, Vec<u8>)> {
    const BEGIN_OF_JPEG: &[u8] = b"/9j/";
    if body.starts_with(BEGIN_OF_JPEG) {
        return None;
    }
    [Kind::Base64, Kind::Base64Url]
        .into_iter()
        .find_map(|kind| Some((kind, forms::parse_base64(kind.base64()?, body)?)))
}

/// The kind of identifier that `body` is, its bits, and how much of it is prefix.
fn identifier(body: &[u8]) -> Option<(Kind, Id, usize)> {
    const PREFIX_BYTES_MAX: usize = 16;
    let id = |low| Id { high: 0, low };
    if body.len() == forms::UUID_BYTES
        && let Some(low) = forms::parse_uuid(body)
    {
        return Some((Kind::Uuid, id(low), 0));
    }
    let underscore = memchr::memchr(b'_', body.get(..body.len().min(PREFIX_BYTES_MAX))?);
    let prefix = underscore.map_or(0, |at| at + 1);
    let (front, tail) = body.split_at(prefix);
    // The prefix stays in the shape, where keys are looked for, so it must have nothing of a key.
    if !front
        .iter()
        .all(|c| c.is_ascii_alphanumeric() || *c == b'_' || *c == b'-')
    {
        return None;
    }
    match tail.len() {
        // Two digits of version, which stay in the shape, then 22 that hold a 128-bit number.
        24 if prefix > 0 && tail.starts_with(b"01") && forms::parse_b58(&tail[2..]).is_some() => {
            let low = forms::parse_b58(&tail[2..])?;
            Some((Kind::Base58, id(low), prefix + 2))
        }
        16 => Some((Kind::Hex16, id(forms::parse_hex(tail)?), prefix)),
        24 => match forms::parse_hex(tail) {
            Some(low) => Some((Kind::Hex24, id(low), prefix)),
            None if body.starts_with(b"call_") => {
                Some((Kind::Base62, forms::parse_b62(tail)?, prefix))
            }
            None => None,
        },
        32 => Some((Kind::Hex32, id(forms::parse_hex(tail)?), prefix)),
        _ => None,
    }
}
