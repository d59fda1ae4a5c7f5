//! The example of `docs/FORMAT.md` and of the codec's module documentation.

use super::*;

#[test]
fn the_line_of_the_documentation_is_taken_apart_as_it_says() {
    let line = br#"{"type":"user","uuid":"0c2f1b1e-9d3a-4b7c-8f00-000012345678","timestamp":"2026-01-02T03:04:05.678Z","n":7,"text":"two\nlines"}"#;
    let entries = [Entry {
        payload: line,
        received_ms: 1000,
    }];
    let streams = split(&entries, None, Techniques::ALL).unwrap();
    let expected: [&[u8]; 14] = [
        // Bytes of: shapes, lines, received times, identifier times.
        &[61, 1, 3, 0],
        // The shape, with the markers of a UUID, a time, an integer and a text.
        b"{\"type\":\"user\",\"uuid\":\"\x03\",\"timestamp\":\"\x05Z\",\"n\":\x0f,\"text\":\"\x01\"}\0",
        // Bytes of each column's codes, aux and text: whole lines, uuid, timestamp, n, text.
        &[0, 0, 0],
        &[1, 0, 0],
        &[6, 0, 0],
        &[2, 0, 0],
        &[1, 0, 9],
        // Lines: shape 0, plus 1.
        &[1],
        // Received times: one message, 1000 ms after 1970.
        &[1, 0xd0, 0x0f],
        // Codes of uuid: a new UUID of version 4.
        &[1],
        // Codes of timestamp: 1,767,323,045,678 ms after 1970.
        &[0xdc, 0xbc, 0xcc, 0xca, 0xef, 0x66],
        // Codes of n: not differences, 7.
        &[0, 14],
        // Codes of text: a new string of 9 bytes.
        &[18 + 9],
        // Text of text.
        b"two\nlines",
    ];
    assert_eq!(streams.main, expected.concat());
    // The low 120 of the UUID's 122 random bits, then the two above them.
    let low_bits = [
        0x30, 0xbc, 0x6c, 0x7a, 0x74, 0xea, 0xdf, 0x0f, 0x00, 0x00, 0x00, 0x12, 0x34, 0x56, 0x78,
    ];
    assert_eq!(streams.id_bytes, low_bits);
    assert_eq!(streams.id_pairs, [0]);
}
