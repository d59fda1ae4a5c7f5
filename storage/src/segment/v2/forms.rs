//! Values of fixed form: times, identifiers, base64 and integers.
//!
//! There is a `parse_…` and a `write_…` for each form. A parser accepts a text only if the writer writes the
//! same bytes again.

use super::output::SHORT_BYTES_MAX;

/// Space for a value's text. Writers fill it from the front, and return how many bytes they wrote.
type ShortText = [u8; SHORT_BYTES_MAX];

/// An RFC 3339 time without its zone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Time {
    /// Unix milliseconds.
    pub(super) ms: i64,
    /// Microseconds beyond them; 0 unless there are six digits of fraction.
    pub(super) us: u16,
    /// Digits of fraction: 0, 3 or 6.
    pub(super) digits: u8,
}

/// Bytes of `2026-01-02T03:04:05`.
const SECONDS_END: usize = 19;
const DAY_S: i64 = 86_400;

fn decimal(text: &[u8]) -> Option<i64> {
    text.iter().try_fold(0_i64, |value, c| {
        c.is_ascii_digit().then(|| value * 10 + i64::from(c - b'0'))
    })
}

/// The time at the front of `text`, and the bytes that it takes. A zone may follow it.
pub(super) fn parse_time(text: &[u8]) -> Option<(Time, usize)> {
    let front = text.get(..SECONDS_END)?;
    if front[4] != b'-'
        || front[7] != b'-'
        || front[10] != b'T'
        || front[13] != b':'
        || front[16] != b':'
    {
        return None;
    }
    let part = |from: usize, to: usize| front.get(from..to).and_then(decimal);
    let (year, month, day) = (part(0, 4)?, part(5, 7)?, part(8, 10)?);
    let (hour, minute, second) = (part(11, 13)?, part(14, 16)?, part(17, 19)?);
    if hour > 23 || minute > 59 || second > 59 || year < 1970 {
        return None;
    }
    let days = days_of(year, month, day);
    if date_of(days) != (year, month, day) {
        return None;
    }
    let mut end = SECONDS_END;
    let (mut fraction_us, mut digits) = (0, 0);
    if text.get(end) == Some(&b'.') {
        let run = text[end + 1..]
            .iter()
            .take_while(|c| c.is_ascii_digit())
            .count();
        let value = decimal(text.get(end + 1..end + 1 + run)?)?;
        (fraction_us, digits) = match run {
            3 => (value * 1000, 3),
            6 => (value, 6),
            _ => return None,
        };
        end += 1 + run;
    }
    let seconds = days * DAY_S + hour * 3600 + minute * 60 + second;
    let (ms, us) = (
        seconds * 1000 + fraction_us / 1000,
        (fraction_us % 1000) as u16,
    );
    Some((Time { ms, us, digits }, end))
}

/// Writes a time as [`parse_time`] reads it. `None` if it is out of the form's range.
pub(super) fn write_time(time: Time, text: &mut ShortText) -> Option<usize> {
    let seconds = time.ms.div_euclid(1000);
    let (days, second) = (seconds.div_euclid(DAY_S), seconds.rem_euclid(DAY_S));
    // Year 9999 ends before day 2,932,897; the bound also keeps the calendar sums small.
    if !(0..2_932_897).contains(&days) {
        return None;
    }
    let (year, month, day) = date_of(days);
    text[..26].copy_from_slice(b"0000-00-00T00:00:00.000000");
    let mut put = |at: usize, width: usize, mut value: i64| {
        for place in (at..at + width).rev() {
            text[place] = b'0' + (value % 10) as u8;
            value /= 10;
        }
    };
    put(0, 4, year);
    put(5, 2, month);
    put(8, 2, day);
    put(11, 2, second / 3600);
    put(14, 2, second / 60 % 60);
    put(17, 2, second % 60);
    put(20, 3, time.ms.rem_euclid(1000));
    put(23, 3, i64::from(time.us));
    let length = match time.digits {
        0 => SECONDS_END,
        digits => SECONDS_END + 1 + usize::from(digits.min(6)),
    };
    Some(length)
}

/// Days from 1970-01-01 in the proleptic Gregorian calendar, whose 400 years are 146,097 days;
/// years begin in March here, so that the leap day is a year's last.
fn days_of(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let (era, of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

fn date_of(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let (era, of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let shifted = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 {
        shifted + 3
    } else {
        shifted - 9
    };
    (era * 400 + year + i64::from(month <= 2), month, day)
}

/// An identifier's random part: up to 144 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(super) struct Id {
    /// Bits above the lower 128; only `B62` identifiers have them.
    pub(super) high: u16,
    /// The lower 128 bits.
    pub(super) low: u128,
}

const HEX: &[u8; 16] = b"0123456789abcdef";
const fn hex_values() -> [u8; 256] {
    let mut table = [0xff; 256];
    let mut digit = 0;
    while digit < 16 {
        table[HEX[digit] as usize] = digit as u8;
        digit += 1;
    }
    table
}
const HEX_VALUES: [u8; 256] = hex_values();

/// Each byte's two digits.
static HEX_PAIRS: [[u8; 2]; 256] = {
    let mut table = [[0; 2]; 256];
    let mut byte = 0;
    while byte < table.len() {
        table[byte] = [HEX[byte >> 4], HEX[byte & 15]];
        byte += 1;
    }
    table
};

/// Lower-case hex digits, at most 32, as a number.
pub(super) fn parse_hex(text: &[u8]) -> Option<u128> {
    text.iter().try_fold(0_u128, |value, &c| {
        let digit = HEX_VALUES[usize::from(c)];
        (digit < 16).then(|| value << 4 | u128::from(digit))
    })
}

/// Writes the lowest `digits` hex digits of `value`, an even number of them, at most 32.
pub(super) fn write_hex(value: u128, digits: usize, text: &mut ShortText) -> usize {
    let bytes = value.to_be_bytes();
    let wanted = bytes.get(bytes.len() - digits / 2..).unwrap_or_default();
    for (pair, byte) in text.as_chunks_mut::<2>().0.iter_mut().zip(wanted) {
        *pair = HEX_PAIRS[usize::from(*byte)];
    }
    2 * wanted.len()
}

/// Bytes of a UUID's text.
pub(super) const UUID_BYTES: usize = 36;

/// A lower-case UUID.
pub(super) fn parse_uuid(text: &[u8]) -> Option<u128> {
    let text: &[u8; UUID_BYTES] = text.try_into().ok()?;
    let mut value = 0_u128;
    for (at, &c) in text.iter().enumerate() {
        if matches!(at, 8 | 13 | 18 | 23) {
            if c != b'-' {
                return None;
            }
            continue;
        }
        let digit = HEX_VALUES[usize::from(c)];
        if digit > 15 {
            return None;
        }
        value = value << 4 | u128::from(digit);
    }
    Some(value)
}

/// Writes a UUID.
pub(super) fn write_uuid(value: u128, text: &mut ShortText) -> usize {
    let places = [0, 2, 4, 6, 9, 11, 14, 16, 19, 21, 24, 26, 28, 30, 32, 34];
    for (place, byte) in places.into_iter().zip(value.to_be_bytes()) {
        let [high, low] = HEX_PAIRS[usize::from(byte)];
        text[place] = high;
        text[place + 1] = low;
    }
    for place in [8, 13, 18, 23] {
        text[place] = b'-';
    }
    UUID_BYTES
}

const BASE58: &[u8; 58] = b"123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz";
const BASE62: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

fn digit_in(alphabet: &[u8], c: u8) -> Option<u128> {
    alphabet.iter().position(|&a| a == c).map(|p| p as u128)
}

fn parse_base(alphabet: &[u8], text: &[u8]) -> Option<u128> {
    let base = alphabet.len() as u128;
    text.iter().try_fold(0_u128, |value, &c| {
        value.checked_mul(base)?.checked_add(digit_in(alphabet, c)?)
    })
}

/// Fills `text` with the digits of `value`; false if it has more.
fn write_base<const BASE: usize>(alphabet: &[u8; BASE], mut value: u128, text: &mut [u8]) -> bool {
    /// Digits whose number still fits 64 bits: a 128-bit division per digit would dominate replay.
    const STEP_DIGITS: u32 = 10;
    let base = BASE as u64;
    let step = u128::from(base.pow(STEP_DIGITS));
    for group in text.rchunks_mut(STEP_DIGITS as usize) {
        let mut digits = (value % step) as u64;
        value /= step;
        for place in group.iter_mut().rev() {
            *place = alphabet[(digits % base) as usize];
            digits /= base;
        }
        if digits != 0 {
            return false;
        }
    }
    value == 0
}

/// Base-58 digits that hold 128 bits.
pub(super) const B58_BYTES: usize = 22;
/// Base-62 digits of an OpenAI call id; two halves of 12 hold 72 bits each.
pub(super) const B62_BYTES: usize = 24;

/// 22 base-58 digits.
pub(super) fn parse_b58(text: &[u8]) -> Option<u128> {
    (text.len() == B58_BYTES).then(|| parse_base(BASE58, text))?
}

/// Writes 22 base-58 digits: any 128-bit value fits.
pub(super) fn write_b58(value: u128, text: &mut ShortText) -> usize {
    write_base(BASE58, value, &mut text[..B58_BYTES]);
    B58_BYTES
}

/// 24 base-62 digits.
pub(super) fn parse_b62(text: &[u8]) -> Option<Id> {
    let text: &[u8; B62_BYTES] = text.try_into().ok()?;
    let (left, right) = text.split_at(B62_BYTES / 2);
    let (left, right) = (parse_base(BASE62, left)?, parse_base(BASE62, right)?);
    Some(Id {
        high: (left >> 56) as u16,
        low: (left & ((1 << 56) - 1)) << 72 | right,
    })
}

/// Writes 24 base-62 digits; false if a half is over 12 digits.
pub(super) fn write_b62(id: Id, text: &mut ShortText) -> bool {
    let left = u128::from(id.high) << 56 | id.low >> 72;
    let right = id.low & ((1 << 72) - 1);
    let (left_text, right_text) = text[..B62_BYTES].split_at_mut(B62_BYTES / 2);
    write_base(BASE62, left, left_text) && write_base(BASE62, right, right_text)
}

/// How base64 spells its 64 digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Base64 {
    /// The last two are `+` and `/`.
    Standard,
    /// The last two are `-` and `_`.
    Url,
}

/// The value of each digit of an alphabet, and the digits of 12 bits at once, which halves the look-ups.
struct Base64Tables {
    values: [u8; 256],
    pairs: [[u8; 2]; 1 << 12],
}

impl Base64Tables {
    const fn new(digits: &[u8; 64]) -> Self {
        let mut values = [0xff; 256];
        let mut digit = 0;
        while digit < 64 {
            values[digits[digit] as usize] = digit as u8;
            digit += 1;
        }
        let mut pairs = [[0; 2]; 1 << 12];
        let mut bits = 0;
        while bits < pairs.len() {
            pairs[bits] = [digits[bits >> 6], digits[bits & 63]];
            bits += 1;
        }
        Self { values, pairs }
    }
}

impl Base64 {
    fn tables(self) -> &'static Base64Tables {
        static STANDARD: Base64Tables =
            Base64Tables::new(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/");
        static URL: Base64Tables =
            Base64Tables::new(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_");
        match self {
            Self::Standard => &STANDARD,
            Self::Url => &URL,
        }
    }
}

/// Canonical padded base64 (unused bits 0), or nothing.
pub(super) fn parse_base64(alphabet: Base64, text: &[u8]) -> Option<Vec<u8>> {
    let (quads, []) = text.as_chunks::<4>() else {
        return None;
    };
    let (last, front) = quads.split_last()?;
    let values = &alphabet.tables().values;
    let value = |c: u8| u32::from(values[usize::from(c)]);
    // Most texts are no base64, and their first bytes show it. Nothing is allocated for them.
    if quads[0][..2].iter().any(|&c| value(c) > 63) {
        return None;
    }
    let mut out = Vec::with_capacity(quads.len() * 3);
    for quad in front {
        let [a, b, c, d] = quad.map(value);
        if (a | b | c | d) > 63 {
            return None;
        }
        let bits = a << 18 | b << 12 | c << 6 | d;
        out.extend_from_slice(&bits.to_be_bytes()[1..]);
    }
    let kept = match last {
        [_, _, b'=', b'='] => 1,
        [_, _, _, b'='] => 2,
        _ => 3,
    };
    let mut bits = 0;
    for (place, &c) in last.iter().enumerate() {
        let digit = if place > kept { 0 } else { value(c) };
        if digit > 63 {
            return None;
        }
        bits = bits << 6 | digit;
    }
    let bytes = bits.to_be_bytes();
    if bytes[1 + kept..].iter().any(|&b| b != 0) {
        return None;
    }
    out.extend_from_slice(&bytes[1..1 + kept]);
    Some(out)
}

/// Fills `text` with canonical base64: four bytes for every three of `bytes`, and four for what is left.
pub(super) fn write_base64(alphabet: Base64, bytes: &[u8], text: &mut [u8]) {
    let pairs = &alphabet.tables().pairs;
    let (triples, tail) = bytes.as_chunks::<3>();
    let (quads, _) = text.as_chunks_mut::<4>();
    let digits = |bits: u32| {
        let [a, b] = pairs[(bits >> 12) as usize & 0xfff];
        let [c, d] = pairs[bits as usize & 0xfff];
        [a, b, c, d]
    };
    for (quad, [a, b, c]) in quads.iter_mut().zip(triples) {
        *quad = digits(u32::from(*a) << 16 | u32::from(*b) << 8 | u32::from(*c));
    }
    let Some(last) = quads.get_mut(triples.len()) else {
        return;
    };
    match *tail {
        [a] => {
            *last = digits(u32::from(a) << 16);
            last[2..].fill(b'=');
        }
        [a, b] => {
            *last = digits(u32::from(a) << 16 | u32::from(b) << 8);
            last[3] = b'=';
        }
        _ => {}
    }
}

/// A plain integer: no leading zero, no `-0`, and small enough for differences to fit.
pub(super) fn parse_integer(text: &[u8]) -> Option<i64> {
    let digits = text.strip_prefix(b"-").unwrap_or(text);
    let plain = match digits {
        [b'0'] => text.len() == 1,
        [b'1'..=b'9', ..] => digits.len() <= 18,
        _ => false,
    };
    let magnitude = plain.then(|| decimal(digits))??;
    Some(if text.len() == digits.len() {
        magnitude
    } else {
        -magnitude
    })
}

/// Writes an integer.
pub(super) fn write_integer(value: i64, text: &mut ShortText) -> usize {
    let mut magnitude = value.unsigned_abs();
    let sign = usize::from(value < 0);
    text[0] = b'-';
    let end = sign + magnitude.checked_ilog10().unwrap_or(0) as usize + 1;
    for place in text[sign..end].iter_mut().rev() {
        *place = b'0' + (magnitude % 10) as u8;
        magnitude /= 10;
    }
    end
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read_and_written(text: &str) -> Option<String> {
        let (time, end) = parse_time(text.as_bytes())?;
        let mut back = [0; SHORT_BYTES_MAX];
        let length = write_time(time, &mut back).unwrap();
        assert_eq!(back[..length], text.as_bytes()[..end]);
        Some(String::from_utf8(back[..length].to_vec()).unwrap())
    }

    #[test]
    fn times_come_back_or_are_refused() {
        for good in [
            "1970-01-01T00:00:00Z",
            "2024-02-29T23:59:59.999Z",
            "9999-12-31T00:00:00.123456+00:00",
        ] {
            assert!(read_and_written(good).is_some(), "{good}");
        }
        for bad in [
            "",
            "2023-02-29T00:00:00Z",
            "1969-12-31T00:00:00Z",
            "2024-13-01T00:00:00Z",
            "2024-01-01T24:00:00Z",
            "2024-01-01T00:00:60Z",
            "2024-01-01 00:00:00Z",
            "2024-01-01T00:00:00.1234Z",
            "2024-00-10T00:00:00Z",
            "2024-01-00T00:00:00Z",
        ] {
            assert!(read_and_written(bad).is_none(), "{bad}");
        }
        for ms in [i64::MAX, -1] {
            let (us, digits) = (0, 3);
            let mut room = [0; SHORT_BYTES_MAX];
            assert_eq!(write_time(Time { ms, us, digits }, &mut room), None);
        }
    }

    #[test]
    fn integers_are_plain_or_refused() {
        for good in ["0", "1", "-1", "999999999999999999", "-999999999999999999"] {
            let mut text = [0; SHORT_BYTES_MAX];
            let length = write_integer(parse_integer(good.as_bytes()).unwrap(), &mut text);
            assert_eq!(&text[..length], good.as_bytes());
        }
        for bad in [
            "",
            "-",
            "-0",
            "00",
            "01",
            "1.0",
            "1e5",
            "1000000000000000000",
            "--1",
            "+1",
        ] {
            assert_eq!(parse_integer(bad.as_bytes()), None, "{bad}");
        }
    }

    #[test]
    fn base64_must_be_canonical() {
        for bad in [
            "", "A", "AAA", "AB==", "AAB=", "A===", "====", "AA=A", "AA==AAAA", "AA-A", "AAA\n",
        ] {
            assert_eq!(
                parse_base64(Base64::Standard, bad.as_bytes()),
                None,
                "{bad}"
            );
        }
        for bad in ["AA+A", "AA/A", "AAB=", "AA-A-_"] {
            assert_eq!(parse_base64(Base64::Url, bad.as_bytes()), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn forms_round_trip(low: u128, high: u16, bytes: Vec<u8>, day in 0_i64..2_932_897) {
            let mut room = [0; SHORT_BYTES_MAX];
            let length = write_uuid(low, &mut room);
            prop_assert_eq!(parse_uuid(&room[..length]), Some(low));
            let length = write_b58(low, &mut room);
            prop_assert_eq!(parse_b58(&room[..length]), Some(low));
            let length = write_hex(low, 32, &mut room);
            prop_assert_eq!(parse_hex(&room[..length]), Some(low));
            if write_b62(Id { high, low }, &mut room) {
                prop_assert_eq!(parse_b62(&room[..B62_BYTES]), Some(Id { high, low }));
            }
            let mut text = vec![0; bytes.len().div_ceil(3) * 4];
            for alphabet in [Base64::Standard, Base64::Url] {
                write_base64(alphabet, &bytes, &mut text);
                prop_assert_eq!(
                    parse_base64(alphabet, &text),
                    (!bytes.is_empty()).then(|| bytes.clone())
                );
            }
            let (year, month, date) = date_of(day);
            prop_assert_eq!(days_of(year, month, date), day);
        }
    }
}
