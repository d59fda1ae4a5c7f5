//! A decoder of segments written from `docs/FORMAT.md` alone. It shares no code with the engine
//! but zstd and XXH3, and panics on what it does not understand: it reads fixtures, not history.

mod lines;

use lines::Reader;
use xxhash_rust::xxh3::xxh3_64;

/// A message: its bytes, and when it was received.
pub(crate) type Message = (Vec<u8>, i64);

/// A base: its id, its text, its identifiers, its blobs.
pub(crate) struct Base {
    pub(crate) id: u64,
    head_bytes: usize,
    text: Vec<u8>,
    ids: Vec<Vec<u8>>,
    blobs: Vec<Vec<u8>>,
}

/// Text of a chunk of a base's tail, but for the last.
const CHUNK_BYTES: usize = 256 << 10;

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
    assert_eq!(stream.take(2), b"BB");
    let version = stream.byte();
    assert!(version == 1 || version == 2, "version {version}");
    let id = stream.u64();
    assert_eq!(xxh3_64(stream.0), id);
    let (head_bytes, head_frame) = (stream.count(), stream.count());
    let (mut tail_bytes, mut chunk_frames, mut id_count) = (0, Vec::new(), 0);
    if version == 2 {
        tail_bytes = stream.count();
        chunk_frames = (0..tail_bytes.div_ceil(CHUNK_BYTES))
            .map(|_| stream.count())
            .collect();
        id_count = stream.count();
    }
    let list: Vec<(usize, usize)> = (0..stream.count())
        .map(|_| {
            stream.take(16);
            (stream.count(), stream.count())
        })
        .collect();
    let widths = stream.take(id_count.div_ceil(8));
    let ids = (0..id_count)
        .map(|number| {
            let is_wide = widths[number / 8] >> (number % 8) & 1 == 1;
            stream.take(if is_wide { 18 } else { 16 }).to_vec()
        })
        .collect();
    let mut text = unzstd(stream.take(head_frame), &[], head_bytes);
    for frame in chunk_frames {
        let bytes = CHUNK_BYTES.min(head_bytes + tail_bytes - text.len());
        let chunk = unzstd(stream.take(frame), &text[..head_bytes], bytes);
        text.extend_from_slice(&chunk);
    }
    let blobs = list
        .into_iter()
        .map(|(bytes, frame)| unzstd(stream.take(frame), &[], bytes))
        .collect();
    assert!(stream.0.is_empty());
    Base {
        id,
        head_bytes,
        text,
        ids,
        blobs,
    }
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
    assert!(flags < 8, "flags {flags}");
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
    let text = base.map_or(&[][..], |base| &base.text);
    let dictionary = &text[..base.map_or(0, |base| base.head_bytes)];
    let main = match packed_bytes {
        None => unzstd(stream.0, dictionary, main_bytes),
        Some(packed_bytes) => {
            let packed = unzstd(stream.0, dictionary, packed_bytes);
            with_copies(&packed, text, main_bytes)
        }
    };
    let mut reader = Reader::new(&main, base);
    (reader.ids.bytes, reader.ids.pairs) = (Stream(id_bytes), pairs);
    reader.ids.base = (flags & 4 != 0).then(|| base.unwrap().ids.as_slice());
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
