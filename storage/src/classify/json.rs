//! Reading JSON that others wrote: nothing about one field keeps the others from being read.
//!
//! A key that occurs twice, or a field of another type than expected, is no error here: the last
//! of equal keys counts (as in every JSON reader that agents are written with), and a value of
//! another type reads as absent. So only what is not JSON at all has no fields.

use std::borrow::Cow;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

/// The values of an object's wanted fields, each as it stands.
pub type Fields<'a, const N: usize> = [Option<&'a RawValue>; N];

/// The values of the fields called `names`; `None` when `text` is not one JSON object.
#[must_use]
pub fn fields<'a, const N: usize>(text: &'a str, names: &[&str; N]) -> Option<Fields<'a, N>> {
    let mut json = serde_json::Deserializer::from_str(text);
    let found = Wanted(names).deserialize(&mut json).ok()?;
    json.end().ok()?;
    Some(found)
}

/// The same of a field's value; nothing when it is no object.
pub(super) fn fields_of<'a, const N: usize>(
    value: Option<&'a RawValue>,
    names: &[&str; N],
) -> Fields<'a, N> {
    value
        .and_then(|value| fields(value.get(), names))
        .unwrap_or([None; N])
}

/// What `find` makes of the first element of an array that it makes something of, among the first
/// `items_max`; what stands after that is not looked at. Nothing when it is no array.
pub(super) fn find_item<T>(
    value: &RawValue,
    items_max: usize,
    find: impl FnMut(&RawValue) -> Option<T>,
) -> Option<T> {
    let mut found = None;
    let items = Items {
        items_max,
        find,
        found: &mut found,
    };
    // An array that is not read to its end is an error to the deserializer, and none here: all of
    // `value` has been found to be JSON before.
    let _ = serde_json::Deserializer::from_str(value.get()).deserialize_seq(items);
    found
}

/// A string's text. Half of a surrogate pair, which agents that cut text leave behind, becomes
/// U+FFFD.
#[must_use]
pub fn string(value: &RawValue) -> Option<Cow<'_, str>> {
    let inner = value.get().strip_prefix('"')?.strip_suffix('"')?;
    if !inner.contains('\\') {
        return Some(Cow::Borrowed(inner));
    }
    if let Ok(text) = serde_json::from_str::<String>(value.get()) {
        return Some(Cow::Owned(text));
    }
    let bytes = Bytes.deserialize(&mut serde_json::Deserializer::from_str(value.get()));
    let text = String::from_utf8_lossy(&bytes.ok()?).into_owned();
    Some(Cow::Owned(text))
}

/// A finite number.
pub(super) fn number(value: &RawValue) -> Option<f64> {
    // Rust reads all numbers of JSON; what else it reads as one begins otherwise.
    let text = value.get();
    let is_number = text.starts_with(|c: char| c == '-' || c.is_ascii_digit());
    let number = text.parse::<f64>().ok().filter(|_| is_number);
    number.filter(|n| n.is_finite())
}

/// A number of things: not negative, a fraction cut off.
pub(super) fn count(value: &RawValue) -> Option<u64> {
    let exact = value.get().parse().ok();
    // Saturates.
    exact.or_else(|| number(value).map(|n| n as u64))
}

/// Looks at elements one by one, so that an array of millions takes no room.
struct Items<'f, T, F> {
    items_max: usize,
    find: F,
    found: &'f mut Option<T>,
}

impl<'de, T, F: FnMut(&RawValue) -> Option<T>> Visitor<'de> for Items<'_, T, F> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array")
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut items: A) -> Result<(), A::Error> {
        for _ in 0..self.items_max {
            let Some(item) = items.next_element::<&RawValue>()? else {
                break;
            };
            *self.found = (self.find)(item);
            if self.found.is_some() {
                break;
            }
        }
        Ok(())
    }
}

struct Wanted<'n, const N: usize>(&'n [&'n str; N]);

impl<'de, const N: usize> DeserializeSeed<'de> for Wanted<'_, N> {
    type Value = Fields<'de, N>;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<Self::Value, D::Error> {
        from.deserialize_map(self)
    }
}

impl<'de, const N: usize> Visitor<'de> for Wanted<'_, N> {
    type Value = Fields<'de, N>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut found = [None; N];
        while let Some(place) = map.next_key_seed(Key(self.0))? {
            match place.and_then(|place| found.get_mut(place)) {
                Some(value) => *value = Some(map.next_value()?),
                None => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(found)
    }
}

/// The position of a key among the wanted ones.
struct Key<'n, const N: usize>(&'n [&'n str; N]);

impl<'de, const N: usize> DeserializeSeed<'de> for Key<'_, N> {
    type Value = Option<usize>;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<Self::Value, D::Error> {
        // Bytes: as text, a key with half of a surrogate pair would be an error.
        from.deserialize_bytes(self)
    }
}

impl<const N: usize> Visitor<'_> for Key<'_, N> {
    type Value = Option<usize>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_bytes<E>(self, key: &[u8]) -> Result<Self::Value, E> {
        Ok(self.0.iter().position(|name| name.as_bytes() == key))
    }
}

/// A string's bytes, halves of surrogate pairs included.
struct Bytes;

impl<'de> DeserializeSeed<'de> for Bytes {
    type Value = Vec<u8>;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<Self::Value, D::Error> {
        from.deserialize_bytes(self)
    }
}

impl Visitor<'_> for Bytes {
    type Value = Vec<u8>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string")
    }

    fn visit_bytes<E>(self, bytes: &[u8]) -> Result<Self::Value, E> {
        Ok(bytes.to_vec())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(text: &str) -> &RawValue {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn the_last_of_equal_keys_counts_and_escaped_keys_are_the_same_keys() {
        let [a, b] = fields(r#"{"a":1,"c":{"b":0},"a":[2],"\u0062":null}"#, &["a", "b"]).unwrap();
        assert_eq!((a.unwrap().get(), b.unwrap().get()), ("[2]", "null"));
    }

    #[test]
    fn only_one_whole_object_has_fields() {
        for bad in ["", "[]", "1", "{} {}", r#"{"a":1"#, r#"{"a":tru}"#, "{a:1}"] {
            assert_eq!(fields(bad, &["a"]).map(|_| ()), None, "{bad}");
        }
        let nested = format!(r#"{{"a":{}{}}}"#, "[".repeat(5000), "]".repeat(5000));
        assert!(fields(&nested, &["b"]).is_some(), "depth is no error");
    }

    #[test]
    fn halves_of_surrogate_pairs_lose_one_character_and_no_line() {
        let [text] = fields(r#"{"\ud800":1,"a":"x\ud83dy\n"}"#, &["a"]).unwrap();
        let text = string(text.unwrap()).unwrap();
        assert!(text.starts_with('x') && text.ends_with("y\n"), "{text}");
    }

    #[test]
    fn an_array_is_looked_at_up_to_what_is_found_and_no_further_than_allowed() {
        let mut seen = 0;
        let mut find = |items_max, wanted: &str| {
            seen = 0;
            let found = find_item(raw("[1, 2, 3, 4]"), items_max, |item| {
                seen += 1;
                (item.get() == wanted).then_some(())
            });
            (found.is_some(), seen)
        };
        assert_eq!(find(9, "2"), (true, 2));
        assert_eq!(find(9, "5"), (false, 4));
        assert_eq!(find(3, "4"), (false, 3));
        for none in ["{}", "null", "\"1\"", "1"] {
            assert_eq!(find_item(raw(none), 9, |_| Some(())), None, "{none}");
        }
    }

    #[test]
    fn numbers_of_any_size_are_read_or_left() {
        assert_eq!(count(raw("18446744073709551615")), Some(u64::MAX));
        assert_eq!(count(raw("1e30")), Some(u64::MAX));
        assert_eq!(count(raw("-3")), Some(0));
        assert_eq!(count(raw("2.9")), Some(2));
        for none in ["1e999", "\"5\"", "null", "{}", "true"] {
            assert_eq!(count(raw(none)), None, "{none}");
        }
        assert_eq!(number(raw("-0.5e1")), Some(-5.0));
    }
}
