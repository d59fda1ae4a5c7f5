//! A decoder of segments written from `docs/FORMAT.md` alone. It shares no code with the engine
//! but zstd and XXH3, and panics on what it does not understand: it reads fixtures, not history.

use std::collections::HashMap;

use xxhash_rust::xxh3::xxh3_64;

/// A message: its bytes, and when it was received.
pub(crate) type Message = (Vec<u8>, i64);

/// A base: its id, its text, its blobs.
pub(crate) struct Base {
    pub(crate) id: u64,
    text: Vec<u8>,
    blobs: Vec<Vec<u8>>,
}

struct Stream<'a>(&'a [u8]);

impl<'a> Stream<'a> {
    fn take(&mut self, count: usize) -> &'a [u8] {
        let (head, rest) = self.0.split_at(count);
        self.0 = rest;
        head
    }

    fn byte(&mut self) -> u8 {
        self.take(1)[0]
    }

    fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.take(4).try_into().unwrap())
    }

    fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.take(8).try_into().unwrap())
    }

    fn varint(&mut self) -> u64 {
        let mut value = 0;
        for shift in (0..).step_by(7) {
            let byte = self.byte();
            value |= u64::from(byte & 127) << shift;
            if byte < 128 {
                break;
            }
        }
        value
    }

    fn zigzag(&mut self) -> i64 {
        match self.varint() {
            even if even % 2 == 0 => (even / 2) as i64,
            odd => -((odd / 2) as i64) - 1,
        }
    }

    fn count(&mut self) -> usize {
        self.varint() as usize
    }
}

/// A frame without its magic number.
fn unzstd(frame: &[u8], dictionary: &[u8], bytes: usize) -> Vec<u8> {
    if frame.is_empty() {
        return Vec::new();
    }
    let whole = [&[0x28, 0xb5, 0x2f, 0xfd], frame].concat();
    let mut decompressor = zstd::bulk::Decompressor::with_dictionary(dictionary).unwrap();
    let raw = decompressor.decompress(&whole, bytes).unwrap();
    assert_eq!(raw.len(), bytes);
    raw
}

pub(crate) fn base(bytes: &[u8]) -> Base {
    let mut stream = Stream(bytes);
    assert_eq!(stream.take(3), b"BB\x01");
    let id = stream.u64();
    assert_eq!(xxh3_64(stream.0), id);
    let (text_bytes, text_frame) = (stream.count(), stream.count());
    let list: Vec<(usize, usize)> = (0..stream.count())
        .map(|_| {
            stream.take(16);
            (stream.count(), stream.count())
        })
        .collect();
    let text = unzstd(stream.take(text_frame), &[], text_bytes);
    let blobs = list
        .into_iter()
        .map(|(bytes, frame)| unzstd(stream.take(frame), &[], bytes))
        .collect();
    assert!(stream.0.is_empty());
    Base { id, text, blobs }
}

pub(crate) fn segment(bytes: &[u8], base: Option<&Base>) -> Vec<Message> {
    let mut stream = Stream(bytes);
    assert_eq!(stream.take(2), b"BS");
    let version = stream.byte();
    assert_eq!(stream.byte(), 0);
    let (messages, payload_bytes) = (stream.u32() as usize, stream.u32() as usize);
    let checksum = stream.u64();
    assert_eq!(xxh3_64(&[&bytes[..12], stream.0].concat()), checksum);
    let decoded = match version {
        1 => version_1(&mut stream, messages, payload_bytes),
        2 => version_2(&mut stream, messages, base),
        _ => panic!("version {version}"),
    };
    assert_eq!(
        decoded
            .iter()
            .map(|(payload, _)| payload.len())
            .sum::<usize>(),
        payload_bytes
    );
    decoded
}

fn version_1(stream: &mut Stream<'_>, messages: usize, payload_bytes: usize) -> Vec<Message> {
    let index_frame = stream.u32() as usize;
    let index = zstd::bulk::decompress(stream.take(index_frame), messages * 16).expect("an index");
    let payloads = zstd::bulk::decompress(stream.0, payload_bytes).expect("payloads");
    let mut lengths = Stream(&index[..messages * 4]);
    let mut times = Stream(&index[messages * 4..messages * 12]);
    let mut digests = Stream(&index[messages * 12..]);
    let mut payloads = Stream(&payloads);
    let mut now_ms = 0_i64;
    (0..messages)
        .map(|_| {
            let payload = payloads.take(lengths.u32() as usize).to_vec();
            now_ms = now_ms.wrapping_add(times.u64() as i64);
            assert_eq!(xxh3_64(&payload) as u32, digests.u32());
            (payload, now_ms)
        })
        .collect()
}

fn version_2(stream: &mut Stream<'_>, messages: usize, base: Option<&Base>) -> Vec<Message> {
    let flags = stream.byte();
    assert!(flags < 4, "flags {flags}");
    let base = (flags & 1 != 0).then(|| {
        let id = stream.u64();
        base.filter(|base| base.id == id).expect("its base")
    });
    let [digests, ids, pairs, blob_bytes, blob_frame, main_bytes] =
        [(); 6].map(|()| stream.count());
    let packed_bytes = (flags & 2 != 0).then(|| stream.count());
    let mut digests = Stream(stream.take(4 * digests));
    let (id_bytes, pairs) = (stream.take(ids), stream.take(pairs));
    let blobs = unzstd(stream.take(blob_frame), &[], blob_bytes);
    let dictionary = base.map_or(&[][..], |base| &base.text);
    let main = match packed_bytes {
        None => unzstd(stream.0, dictionary, main_bytes),
        Some(packed_bytes) => {
            let packed = unzstd(stream.0, dictionary, packed_bytes);
            with_copies(&packed, dictionary, main_bytes)
        }
    };
    let mut reader = Reader::new(&main, base);
    (reader.ids.bytes, reader.ids.pairs) = (Stream(id_bytes), pairs);
    reader.blobs = Stream(&blobs);

    let payloads: Vec<Vec<u8>> = (0..messages).map(|_| reader.line()).collect();
    let (mut group, mut in_group) = (Vec::new(), 0);
    for (index, payload) in payloads.iter().enumerate() {
        group.extend_from_slice(payload);
        in_group += 1;
        if in_group == 64 || group.len() >= 65_536 || index + 1 == messages {
            assert_eq!(xxh3_64(&group) as u32, digests.u32());
            (group, in_group) = (Vec::new(), 0);
        }
    }
    assert!(digests.0.is_empty());
    let mut times = Vec::new();
    let mut now_ms = 0_i64;
    while !reader.times.0.is_empty() {
        let run = reader.times.count();
        now_ms = now_ms.wrapping_add(reader.times.zigzag());
        times.extend(std::iter::repeat_n(now_ms, run));
    }
    assert_eq!(times.len(), messages);
    payloads.into_iter().zip(times).collect()
}

/// Puts the copies back, one byte after the other.
fn with_copies(packed: &[u8], base_text: &[u8], main_bytes: usize) -> Vec<u8> {
    let mut stream = Stream(packed);
    let [befores, lengths, sources] = [(); 3].map(|()| stream.count());
    let [mut befores, mut lengths, mut sources] =
        [befores, lengths, sources].map(|bytes| Stream(stream.take(bytes)));
    let mut all = base_text.to_vec();
    let mut expected = 0;
    while !befores.0.is_empty() {
        let literals = befores.count();
        all.extend_from_slice(stream.take(literals));
        let length = lengths.count() + 32;
        let source = expected + literals as i64 + sources.zigzag();
        for at in source..source + length as i64 {
            all.push(all[at as usize]);
        }
        expected = source + length as i64;
    }
    all.extend_from_slice(stream.0);
    let main = all.split_off(base_text.len());
    assert_eq!(main.len(), main_bytes);
    main
}

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

struct Ids<'a> {
    bytes: Stream<'a>,
    pairs: &'a [u8],
    pairs_taken: usize,
    times: Stream<'a>,
    known: Vec<Vec<u8>>,
}

struct Reader<'a> {
    shapes: Vec<Vec<Piece<'a>>>,
    lines: Stream<'a>,
    times: Stream<'a>,
    columns: Vec<Column<'a>>,
    ids: Ids<'a>,
    blobs: Stream<'a>,
    base: Option<&'a Base>,
    /// New strings of 16 bytes or more.
    strings: Vec<Vec<u8>>,
    last_ms: i64,
}

impl<'a> Reader<'a> {
    fn new(main: &'a [u8], base: Option<&'a Base>) -> Self {
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
            },
            blobs: Stream(&[]),
            base,
            strings: Vec::new(),
            last_ms: 0,
        }
    }

    fn line(&mut self) -> Vec<u8> {
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
            0x0e => out.extend(base64(&self.string(kind, column))),
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
        let id = match column.codes.count() {
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
                let source = if kind == 0x0e {
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

fn base64(bytes: &[u8]) -> Vec<u8> {
    let alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
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
