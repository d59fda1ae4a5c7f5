//! Lines that go wrong in files of agent lines, all of them seen in the wild: history like any
//! other.

use super::rng::Rng;
use super::transcript::TranscriptLines;

/// A file of about 30 lines with blank lines, prose, `\r\n`, invalid UTF-8, NUL bytes, torn lines,
/// two objects on a line; every other seed has no newline at its end.
#[must_use]
pub fn awkward(seed: u64) -> Vec<u8> {
    let mut rng = Rng::new(seed ^ 0x6177_6b77);
    let mut lines = TranscriptLines::new(seed).skip(1);
    let mut file = Vec::new();
    let mut kinds: Vec<usize> = (0..9)
        .chain((0..rng.range(12, 24)).map(|_| rng.clone().below(12)))
        .collect();
    for place in (1..kinds.len()).rev() {
        kinds.swap(place, rng.below(place + 1));
    }
    for kind in kinds {
        let line = lines.next().unwrap_or_default();
        match kind {
            0 => {}
            1 => file.extend_from_slice(b"npm warn deprecated: the agent could not be updated"),
            2 => file.extend([line, b"\r".to_vec()].concat()),
            3 => file.extend(
                [
                    b"\xff\xfe\xc3(".to_vec(),
                    rng.bytes(40).into_iter().filter(|&b| b != b'\n').collect(),
                ]
                .concat(),
            ),
            4 => file.extend([vec![0; rng.range(1, 600)], line].concat()),
            5 => file.extend_from_slice(&line[..rng.below(line.len())]),
            6 => file.extend([line, lines.next().unwrap_or_default()].concat()),
            7 => file.extend_from_slice(b"  \t "),
            8 => {
                file.extend_from_slice(br#"{ "type" : "user" , "odd" : 1.0e3, "odd": "\u00e9\/" }"#)
            }
            _ => file.extend(line),
        }
        file.push(b'\n');
    }
    if seed % 2 == 1 {
        file.pop();
    }
    file
}
