//! The main stream of version 2: columns of values, put back into the shapes of their lines.

use std::collections::HashMap;

use super::{Base, Stream};

/// A piece of a shape: bytes as they are, or the next value of a column.
enum Piece<'a> {
    Literal(&'a [u8]),
    Value { kind: u8, column: usize },
}

struct Column<'a> {
    codes: Stream<'a>,
    aux: Stream<'a>,
    text: Stream<'a>,
    recent: Vec<Vec<u8>>,
    last_id: Vec<u8>,
    differences: Option<bool>,
    last_integer: i64,
}

pub(super) struct Ids<'a> {
    pub(super) bytes: Stream<'a>,
    pub(super) pairs: &'a [u8],
    pairs_taken: usize,
    times: Stream<'a>,
    known: Vec<Vec<u8>>,
    /// The base's, if codes may name them, and where the next of them stands.
    pub(super) base: Option<&'a [Vec<u8>]>,
    base_next: usize,
}

pub(super) struct Reader<'a> {
    shapes: Vec<Vec<Piece<'a>>>,
    lines: Stream<'a>,
    pub(super) times: Stream<'a>,
    columns: Vec<Column<'a>>,
    pub(super) ids: Ids<'a>,
    pub(super) blobs: Stream<'a>,
    base: Option<&'a Base>,
    /// New strings of 16 bytes or more.
    strings: Vec<Vec<u8>>,
    last_ms: i64,
}

impl<'a> Reader<'a> {
    pub(super) fn new(main: &'a [u8], base: Option<&'a Base>) -> Self {
        let mut stream = Stream(main);
        let [shapes, lines, times, id_times] = [(); 4].map(|()| stream.count());
        let (shapes, columns) = shapes_of(stream.take(shapes));
        let lengths: Vec<[usize; 3]> = (0..columns)
            .map(|_| [(); 3].map(|()| stream.count()))
            .collect();
        let lines = Stream(stream.take(lines));
        let times = Stream(stream.take(times));
        let id_times = Stream(stream.take(id_times));
        let codes: Vec<_> = lengths
            .iter()
            .map(|&[codes, aux, _]| (stream.take(codes), stream.take(aux)))
            .collect();
        let columns = codes
            .into_iter()
            .zip(&lengths)
            .map(|((codes, aux), &[_, _, text])| Column {
                codes: Stream(codes),
                aux: Stream(aux),
                text: Stream(stream.take(text)),
                recent: Vec::new(),
                last_id: Vec::new(),
                differences: None,
                last_integer: 0,
            })
            .collect();
        assert!(stream.0.is_empty());
        Self {
            shapes,
            lines,
            times,
            columns,
            ids: Ids {
                bytes: Stream(&[]),
                pairs: &[],
                pairs_taken: 0,
                times: id_times,
                known: Vec::new(),
                base: None,
                base_next: 0,
            },
            blobs: Stream(&[]),
            base,
            strings: Vec::new(),
            last_ms: 0,
        }
    }

    pub(super) fn line(&mut self) -> Vec<u8> {
        match self.lines.count() {
            0 => self.string(0x12, 0),
            shape => {
                let mut out = Vec::new();
                self.shape(shape - 1, &mut out);
                out
            }
        }
    }

    fn shape(&mut self, shape: usize, out: &mut Vec<u8>) {
        for piece in 0..self.shapes[shape].len() {
            match self.shapes[shape][piece] {
                Piece::Literal(bytes) => out.extend_from_slice(bytes),
                Piece::Value { kind, column } => self.value(kind, column, out),
            }
        }
    }

    fn value(&mut self, kind: u8, column: usize, out: &mut Vec<u8>) {
        match kind {
            0x01 => out.extend(escaped(&self.string(kind, column))),
            0x02 | 0x10 | 0x12 => out.extend(self.string(kind, column)),
            0x0b => {
                let text = self.string(kind, column);
                let numbered = numbered(&text, &mut self.columns[column].aux);
                out.extend(escaped(&numbered));
            }
            0x0c => {
                let text = self.string(kind, column);
                let aux = &mut self.columns[column].aux;
                let count = aux.count();
                let lines = aux.take(count).iter().zip(text.split(|&c| c == b'\n'));
                let lines: Vec<Vec<u8>> = lines
                    .map(|(first, line)| {
                        let line = escaped(&[&[*first], line].concat());
                        [b"\"", &line[..], b"\""].concat()
                    })
                    .collect();
                out.extend([b"[", &lines.join(&b","[..])[..], b"]"].concat());
            }
            0x0e => out.extend(base64(*b"+/", &self.string(kind, column))),
            0x16 => out.extend(base64(*b"-_", &self.string(kind, column))),
            0x0f => {
                let column = &mut self.columns[column];
                let codes = &mut column.codes;
                let differences = *column.differences.get_or_insert_with(|| codes.byte() == 1);
                let mut value = codes.zigzag();
                if differences {
                    value += column.last_integer;
                }
                column.last_integer = value;
                out.extend(value.to_string().bytes());
            }
            0x11 => self.array(column, out),
            0x04..=0x06 => self.time(kind, column, out),
            _ => self.id(kind, column, out),
        }
    }

    fn array(&mut self, column: usize, out: &mut Vec<u8>) {
        let Column { codes, aux, .. } = &mut self.columns[column];
        let shapes: Vec<usize> = (0..codes.count()).map(|_| aux.count()).collect();
        out.push(b'[');
        for (index, shape) in shapes.into_iter().enumerate() {
            if index > 0 {
                out.push(b',');
            }
            self.shape(shape, out);
        }
        out.push(b']');
    }

    fn time(&mut self, kind: u8, column: usize, out: &mut Vec<u8>) {
        let Column { codes, aux, .. } = &mut self.columns[column];
        self.last_ms += codes.zigzag();
        let (mut day, ms) = (
            self.last_ms.div_euclid(86_400_000),
            self.last_ms.rem_euclid(86_400_000),
        );
        let mut year = 1970;
        let leap = |year: i64| year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
        while day >= 365 + i64::from(leap(year)) {
            day -= 365 + i64::from(leap(year));
            year += 1;
        }
        let mut month = 0;
        for days in [
            31,
            28 + i64::from(leap(year)),
            31,
            30,
            31,
            30,
            31,
            31,
            30,
            31,
            30,
        ] {
            if day < days {
                break;
            }
            day -= days;
            month += 1;
        }
        let (hour, minute, second) = (ms / 3_600_000, ms / 60_000 % 60, ms / 1000 % 60);
        let (month, day, ms) = (month + 1, day + 1, ms % 1000);
        let whole = format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}");
        let fraction = match kind {
            0x04 => String::new(),
            0x05 => format!(".{ms:03}"),
            _ => format!(".{ms:03}{:03}", aux.varint()),
        };
        out.extend(format!("{whole}{fraction}").bytes());
    }

    fn id(&mut self, kind: u8, column: usize, out: &mut Vec<u8>) {
        let bytes = match kind {
            0x08 => 18,
            0x13 => 8,
            0x14 => 12,
            _ => 16,
        };
        let column = &mut self.columns[column];
        let ids = &mut self.ids;
        let mut code = column.codes.count();
        let mut of_base = None;
        if let (Some(base), 4..) = (ids.base, code) {
            if code < 6 {
                let distance = if code == 5 { column.codes.zigzag() } else { 0 };
                let position = ids.base_next as i64 + distance;
                ids.base_next = position as usize + 1;
                of_base = Some(base[position as usize].clone());
            } else {
                code -= 2;
            }
        }
        let id = match code {
            _ if of_base.is_some() => ids.learn(of_base.unwrap()),
            0 if column.last_id.is_empty() => vec![0; bytes],
            0 => column.last_id.clone(),
            1 => {
                let random = ids.random(15);
                ids.learn(uuid(random >> 74, 4, random).to_be_bytes().to_vec())
            }
            2 => {
                let ms = (self.last_ms + ids.times.zigzag()) as u128;
                let random = ids.random(9);
                ids.learn(uuid(ms, 7, random).to_be_bytes().to_vec())
            }
            3 => {
                let new = ids.bytes.take(bytes).to_vec();
                ids.learn(new)
            }
            back => ids.known[ids.known.len() - (back - 3)].clone(),
        };
        // An identifier may have been new in a column of another kind.
        let id = [vec![0; 18], id].concat();
        let id = id[id.len() - bytes..].to_vec();
        column.last_id = id.clone();
        let hex = |id: &[u8]| -> String { id.iter().map(|byte| format!("{byte:02x}")).collect() };
        match kind {
            0x03 => {
                let hex = hex(&id);
                let cuts = [0..8, 8..12, 12..16, 16..20, 20..32];
                out.extend(cuts.map(|cut| &hex[cut]).join("-").bytes());
            }
            0x07 => out.extend(digits(
                &id,
                b"123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz",
                22,
            )),
            0x08 => {
                for half in [&id[..9], &id[9..]] {
                    out.extend(digits(
                        half,
                        b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz",
                        12,
                    ));
                }
            }
            _ => out.extend(hex(&id).bytes()),
        }
    }

    fn string(&mut self, kind: u8, index: usize) -> Vec<u8> {
        let column = &mut self.columns[index];
        let value = match column.codes.count() {
            rank @ 0..16 => column.recent.remove(rank),
            16 => self.strings[self.strings.len() - column.aux.count()].clone(),
            17 => self.base.unwrap().blobs[column.aux.count()].clone(),
            code => {
                let source = if matches!(kind, 0x0e | 0x16) {
                    &mut self.blobs
                } else {
                    &mut column.text
                };
                let new = source.take(code - 18).to_vec();
                if new.len() >= 16 {
                    self.strings.push(new.clone());
                }
                new
            }
        };
        column.recent.insert(0, value.clone());
        column.recent.truncate(16);
        value
    }
}

impl Ids<'_> {
    /// The bits of so many bytes, and a bit pair above them.
    fn random(&mut self, bytes: usize) -> u128 {
        let low = self.bytes.take(bytes).iter();
        let low = low.fold(0, |value, &byte| value << 8 | u128::from(byte));
        let pair = self.pairs[self.pairs_taken / 4] >> (2 * (self.pairs_taken % 4)) & 3;
        self.pairs_taken += 1;
        u128::from(pair) << (8 * bytes) | low
    }

    fn learn(&mut self, id: Vec<u8>) -> Vec<u8> {
        self.known.push(id.clone());
        id
    }
}

/// A UUID of `front` (48 bits), its version, and the lower 74 bits of `random` around the variant.
fn uuid(front: u128, version: u128, random: u128) -> u128 {
    let (middle, tail) = (random >> 62 & 0xfff, random & ((1 << 62) - 1));
    (front & 0xffff_ffff_ffff) << 80 | version << 76 | middle << 64 | 2 << 62 | tail
}

fn digits(id: &[u8], alphabet: &[u8], count: usize) -> Vec<u8> {
    let mut value = id
        .iter()
        .fold(0_u128, |value, &byte| value << 8 | u128::from(byte));
    let base = alphabet.len() as u128;
    let mut text = vec![0; count];
    for digit in text.iter_mut().rev() {
        *digit = alphabet[(value % base) as usize];
        value /= base;
    }
    assert_eq!(value, 0);
    text
}

fn base64(last_digits: [u8; 2], bytes: &[u8]) -> Vec<u8> {
    let mut alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789".to_vec();
    alphabet.extend(last_digits);
    let mut text = Vec::new();
    for three in bytes.chunks(3) {
        let bits = (0..3).fold(0_u32, |bits, at| {
            bits << 8 | u32::from(three.get(at).copied().unwrap_or(0))
        });
        for place in 0..4 {
            let digit = alphabet[(bits >> (18 - 6 * place) & 63) as usize];
            text.push(if place <= three.len() { digit } else { b'=' });
        }
    }
    text
}

fn escaped(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    for &byte in text {
        match byte {
            b'"' | b'\\' => out.extend([b'\\', byte]),
            8 => out.extend(b"\\b"),
            9 => out.extend(b"\\t"),
            10 => out.extend(b"\\n"),
            12 => out.extend(b"\\f"),
            13 => out.extend(b"\\r"),
            ..0x20 => out.extend(format!("\\u{byte:04x}").bytes()),
            _ => out.push(byte),
        }
    }
    out
}

fn numbered(text: &[u8], aux: &mut Stream<'_>) -> Vec<u8> {
    let mut text = Stream(text);
    let mut out = Vec::new();
    loop {
        let plain = aux.count();
        let lines = aux.varint();
        out.extend(text.take(plain));
        if lines == 0 {
            break;
        }
        let first = aux.varint();
        let style = aux.byte();
        for number in first..first + lines {
            let width = usize::from(style >> 1);
            out.extend(format!("{number:>width$}").bytes());
            out.extend(if style & 1 == 1 { "\t" } else { "→" }.bytes());
            let end = text.0.iter().position(|&c| c == b'\n');
            out.extend(text.take(end.map_or(text.0.len(), |end| end + 1)));
        }
    }
    assert!(text.0.is_empty());
    out
}

fn shapes_of(text: &[u8]) -> (Vec<Vec<Piece<'_>>>, usize) {
    let mut columns: HashMap<(u8, &[u8]), usize> = HashMap::from([((0x12, &b""[..]), 0)]);
    let mut shapes = Vec::new();
    for shape in text.split_inclusive(|&c| c == 0) {
        let shape = shape.strip_suffix(&[0]).expect("the end of a shape");
        let context = shape.iter().position(|&c| c == 0x17);
        let mut key = context.map_or(&b""[..], |at| &shape[..at]);
        let mut rest = &shape[context.map_or(0, |at| at + 1)..];
        let mut pieces = Vec::new();
        while !rest.is_empty() {
            let is_marker = |c: &u8| *c < 0x20 && !b"\t\n\r".contains(c);
            let marker = rest.iter().position(is_marker);
            let (literal, after) = rest.split_at(marker.unwrap_or(rest.len()));
            if !literal.is_empty() {
                pieces.push(Piece::Literal(literal));
            }
            let Some((&kind, after)) = after.split_first() else {
                break;
            };
            key = key_in(literal).unwrap_or(key);
            let next = columns.len();
            let column = *columns.entry((kind, key)).or_insert(next);
            pieces.push(Piece::Value { kind, column });
            rest = after;
        }
        shapes.push(pieces);
    }
    (shapes, columns.len())
}

fn key_in(literal: &[u8]) -> Option<&[u8]> {
    for (colon, _) in literal
        .iter()
        .enumerate()
        .rev()
        .filter(|(_, c)| **c == b':')
    {
        let before = literal[..colon].trim_ascii_end();
        if let Some(key) = before.strip_suffix(b"\"") {
            let open = key.iter().rposition(|&c| c == b'"');
            return Some(&key[open.map_or(0, |open| open + 1)..]);
        }
    }
    None
}
