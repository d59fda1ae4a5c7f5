//! What codec 2 makes of real sessions: size, speed, and the time to read one message.
//!
//! `segment_codec LEVEL SEGMENT_BYTES BASE_BYTES [--techniques] FOLDER…`: each folder is a project, each
//! `.jsonl` file in it a session. 0 bytes of base mean no base. Prints one line for each folder. Speeds are of
//! this thread's CPU time, which other work on the machine disturbs least; the time of a single message is not.
//!
//! With `--techniques`, one more line for each of the codec's techniques: how much larger the segments are
//! without it, and what it costs, as a share of the time that encoding and decoding take.

use std::error::Error;
use std::path::Path;
use std::time::Instant;

use betcode_benches::cpu::CpuTime;
use betcode_storage::limits::SEGMENT_MESSAGES_MAX;
use betcode_storage::segment::v2::{BaseBuilder, Encoder, TakenApart, Techniques};
use betcode_storage::segment::{Base, DecodeLimits, Entry, SegmentError, decode, decode_range};

const RANDOM_READS: usize = 400;
/// Runs of which the fastest counts.
const TECHNIQUE_RUNS: usize = 3;

/// The messages of each segment.
type Segments<'a> = [Vec<Entry<'a>>];

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [level, segment_bytes, base_bytes, folders @ ..] = &arguments[..] else {
        return Err(
            "usage: segment_codec LEVEL SEGMENT_BYTES BASE_BYTES [--techniques] FOLDER...".into(),
        );
    };
    let (level, base_bytes) = (level.parse()?, base_bytes.parse()?);
    let segment_bytes = segment_bytes.parse()?;
    let with_techniques = folders.first().is_some_and(|first| first == "--techniques");
    for folder in &folders[usize::from(with_techniques)..] {
        let folder = Path::new(folder);
        let sessions = sessions_of(folder)?;
        let segments: Vec<_> = sessions
            .iter()
            .flat_map(|session| cut(session, segment_bytes))
            .collect();
        let base = measure(folder, &segments, level, base_bytes)?;
        if with_techniques {
            each_technique(&segments, level, base.as_ref())?;
        }
    }
    Ok(())
}

fn sessions_of(folder: &Path) -> std::io::Result<Vec<Vec<u8>>> {
    let mut files: Vec<_> = std::fs::read_dir(folder)?
        .map(|entry| Ok(entry?.path()))
        .collect::<std::io::Result<_>>()?;
    files.retain(|file| {
        file.extension()
            .is_some_and(|extension| extension == "jsonl")
    });
    files.sort();
    files.iter().map(std::fs::read).collect()
}

/// Prints the folder's line, and returns the base that its segments have.
fn measure(
    folder: &Path,
    segments: &Segments<'_>,
    level: i32,
    base_bytes: usize,
) -> Result<Option<Base>, Box<dyn Error>> {
    let raw_bytes: usize = segments
        .iter()
        .flatten()
        .map(|entry| entry.payload.len())
        .sum();
    let speed = |start: CpuTime| raw_bytes as f64 / 1e6 / start.elapsed_s();

    let start = CpuTime::now();
    let encoded_base = if base_bytes > 0 {
        build_base(segments, base_bytes, level)?
    } else {
        None
    };
    let base_speed = speed(start);
    let base = encoded_base.as_deref().map(Base::decode).transpose()?;

    let start = CpuTime::now();
    let mut encoder = Encoder::new(level, base.as_ref())?;
    let encoded = encode_all(&mut encoder, segments)?;
    let encode_speed = speed(start);

    let start = CpuTime::now();
    decode_all(&encoded, base.as_ref())?;
    let decode_speed = speed(start);

    let reads_ms = random_reads_ms(segments, &encoded, encoded_base.as_deref())?;
    let base_size = encoded_base.as_ref().map_or(0, Vec::len);
    let total: usize = encoded.iter().map(Vec::len).sum::<usize>() + base_size;
    println!(
        "{}: {raw_bytes} raw, {total} encoded ({:.2} %, base {base_size}, {} segments), \
         base {base_speed:.0} MB/s, encode {encode_speed:.1} MB/s, decode {decode_speed:.0} MB/s, \
         one message p50 {:.2} ms, p99 {:.2} ms",
        folder.file_name().unwrap_or_default().display(),
        100.0 * total as f64 / raw_bytes as f64,
        segments.len(),
        reads_ms[RANDOM_READS / 2],
        reads_ms[RANDOM_READS * 99 / 100],
    );
    Ok(base)
}

fn encode_all(
    encoder: &mut Encoder<'_>,
    segments: &Segments<'_>,
) -> Result<Vec<Vec<u8>>, SegmentError> {
    let encoded = segments.iter().map(|entries| encoder.encode(entries));
    encoded.collect()
}

fn decode_all(encoded: &[Vec<u8>], base: Option<&Base>) -> Result<(), SegmentError> {
    let limits = DecodeLimits::default();
    for segment in encoded {
        std::hint::black_box(decode(segment, &limits, base)?);
    }
    Ok(())
}

/// Milliseconds to read single messages at random, the base's decoding included, in ascending order.
fn random_reads_ms(
    segments: &Segments<'_>,
    encoded: &[Vec<u8>],
    encoded_base: Option<&[u8]>,
) -> Result<Vec<f64>, Box<dyn Error>> {
    let limits = DecodeLimits::default();
    let mut reads_ms = Vec::with_capacity(RANDOM_READS);
    let mut random = 1_u64;
    for _ in 0..RANDOM_READS {
        random = random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        let segment = (random >> 33) as usize % segments.len();
        let message = (random >> 17) as usize % segments[segment].len();
        let start = Instant::now();
        let base = encoded_base.map(Base::decode).transpose()?;
        let wanted = message..message + 1;
        let read = decode_range(&encoded[segment], wanted, &limits, base.as_ref())?;
        reads_ms.push(start.elapsed().as_secs_f64() * 1e3);
        if read.payload(0).as_deref() != Some(segments[segment][message].payload) {
            return Err("a message came back changed".into());
        }
    }
    reads_ms.sort_by(f64::total_cmp);
    Ok(reads_ms)
}

/// What a run over all segments took.
struct Weight {
    bytes: usize,
    encode_s: f64,
    decode_s: f64,
}

/// Weighs the segments as they are with some of the codec's techniques: the fastest of a few runs.
fn weigh(
    segments: &Segments<'_>,
    level: i32,
    base: Option<&Base>,
    techniques: Techniques,
) -> Result<Weight, SegmentError> {
    let mut encoder = Encoder::with_techniques(level, base, techniques)?;
    let mut weight = Weight {
        bytes: 0,
        encode_s: f64::MAX,
        decode_s: f64::MAX,
    };
    for _ in 0..TECHNIQUE_RUNS {
        let start = CpuTime::now();
        let encoded = encode_all(&mut encoder, segments)?;
        weight.encode_s = start.elapsed_s().min(weight.encode_s);
        let start = CpuTime::now();
        decode_all(&encoded, base)?;
        weight.decode_s = start.elapsed_s().min(weight.decode_s);
        weight.bytes = encoded.iter().map(Vec::len).sum();
    }
    Ok(weight)
}

fn each_technique(
    segments: &Segments<'_>,
    level: i32,
    base: Option<&Base>,
) -> Result<(), Box<dyn Error>> {
    let all = weigh(segments, level, base, Techniques::ALL)?;
    for name in Techniques::names() {
        let techniques = Techniques::without(name).ok_or("a technique without a name")?;
        let without = weigh(segments, level, base, techniques)?;
        let percent = |with: f64, without: f64| (with - without) / with * 100.0;
        println!(
            "  {name:>12}: without it {:+6.1} % bytes; costs {:+6.1} % of encoding, {:+6.1} % of decoding",
            -percent(all.bytes as f64, without.bytes as f64),
            percent(all.encode_s, without.encode_s),
            percent(all.decode_s, without.decode_s),
        );
    }
    Ok(())
}

/// The segments of a session: of at most `segment_bytes`, unless one message has more.
fn cut(session: &[u8], segment_bytes: usize) -> Vec<Vec<Entry<'_>>> {
    let mut segments = vec![Vec::new()];
    let mut bytes = 0;
    for payload in session
        .strip_suffix(b"\n")
        .unwrap_or(session)
        .split(|&c| c == b'\n')
    {
        let full = bytes + payload.len() > segment_bytes;
        if segments.last().is_some_and(|last: &Vec<Entry<'_>>| {
            !last.is_empty() && (full || last.len() == SEGMENT_MESSAGES_MAX)
        }) {
            segments.push(Vec::new());
            bytes = 0;
        }
        bytes += payload.len();
        if let Some(last) = segments.last_mut() {
            last.push(Entry {
                payload,
                received_ms: 0,
            });
        }
    }
    segments
}

fn build_base(
    segments: &[Vec<Entry<'_>>],
    base_bytes: usize,
    level: i32,
) -> Result<Option<Vec<u8>>, SegmentError> {
    let mut builder = BaseBuilder::new(level);
    for entries in segments {
        builder.observe(TakenApart::of(entries)?);
    }
    let mut collector = builder.into_collector(base_bytes);
    for entries in segments {
        collector.collect(&TakenApart::of(entries)?);
    }
    collector.finish()
}
