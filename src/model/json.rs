//! Payloads: canonical JSON bytes, made once by the author and never serialised again.
//!
//! Canonical: object keys sorted by their UTF-8 bytes, no white space, strings escaped the shortest
//! way, numbers exactly as written (so `1.0`, `1e0` and `1` stay three texts), duplicate keys refused.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use serde::de::{MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;
use thiserror::Error;

use super::limits::{PAYLOAD_BYTES_MAX, PAYLOAD_DEPTH_MAX};

/// Text that is no payload.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum PayloadError {
    /// The text is not one JSON value.
    #[error("not JSON")]
    NotJson(#[source] serde_json::Error),
    /// An object names one key twice, so readers would disagree about its value.
    #[error("the key {key:?} occurs twice in one object")]
    DuplicateKey {
        /// The key.
        key: String,
    },
    /// Longer than [`PAYLOAD_BYTES_MAX`] in canonical form.
    #[error(
        "a payload of {found} bytes exceeds the limit of {limit}; keep large content in a file and store its name"
    )]
    TooLong {
        /// Bytes found.
        found: usize,
        /// [`PAYLOAD_BYTES_MAX`].
        limit: usize,
    },
    /// Nested deeper than [`PAYLOAD_DEPTH_MAX`].
    #[error("nested deeper than {limit} levels")]
    TooDeep {
        /// [`PAYLOAD_DEPTH_MAX`].
        limit: usize,
    },
}

/// A value: canonical JSON of at most [`PAYLOAD_BYTES_MAX`] bytes.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Payload(Arc<str>);

impl Payload {
    /// Reads any JSON text and makes it canonical.
    ///
    /// # Errors
    /// Every variant of [`PayloadError`].
    pub fn parse(text: &str) -> Result<Self, PayloadError> {
        // Canonical form drops white space only, so a text far beyond the limit need not be read.
        if text.len() > 16 * PAYLOAD_BYTES_MAX {
            return Err(PayloadError::TooLong { found: text.len(), limit: PAYLOAD_BYTES_MAX });
        }
        let raw: &RawValue = serde_json::from_str(text).map_err(PayloadError::NotJson)?;
        let mut canonical = String::with_capacity(text.len());
        write_canonical(raw, 0, &mut canonical)?;
        if canonical.len() > PAYLOAD_BYTES_MAX {
            return Err(PayloadError::TooLong { found: canonical.len(), limit: PAYLOAD_BYTES_MAX });
        }
        Ok(Self(canonical.into()))
    }

    /// Makes a serialisable value canonical.
    ///
    /// # Errors
    /// As [`Payload::parse`]; [`PayloadError::NotJson`] also for a value JSON cannot express.
    pub fn from_value(value: &impl serde::Serialize) -> Result<Self, PayloadError> {
        Self::parse(&serde_json::to_string(value).map_err(PayloadError::NotJson)?)
    }

    /// The canonical text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The value of a string member of an object; `None` where it is absent or something else.
    pub fn string_member(&self, name: &str) -> Option<String> {
        let members: BTreeMap<String, &RawValue> = serde_json::from_str(&self.0).ok()?;
        serde_json::from_str(members.get(name)?.get()).ok()
    }

    /// Whether this is an object whose member `name` is `true`.
    pub fn is_flagged(&self, name: &str) -> bool {
        let members: Option<BTreeMap<String, &RawValue>> = serde_json::from_str(&self.0).ok();
        members.is_some_and(|members| members.get(name).is_some_and(|raw| raw.get() == "true"))
    }
}

impl fmt::Display for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Payload {
    /// Shows the length only: payloads stay out of logs.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Payload({} bytes)", self.0.len())
    }
}

fn write_canonical(raw: &RawValue, depth: usize, out: &mut String) -> Result<(), PayloadError> {
    if depth > PAYLOAD_DEPTH_MAX {
        return Err(PayloadError::TooDeep { limit: PAYLOAD_DEPTH_MAX });
    }
    let text = raw.get().trim();
    match text.as_bytes().first() {
        Some(b'{') => {
            let Members(mut members) = serde_json::from_str(text).map_err(PayloadError::NotJson)?;
            members.sort_by(|a, b| a.0.cmp(&b.0));
            if let Some(pair) = members.windows(2).find(|pair| pair[0].0 == pair[1].0) {
                return Err(PayloadError::DuplicateKey { key: pair[0].0.clone() });
            }
            out.push('{');
            for (index, (key, value)) in members.into_iter().enumerate() {
                if index > 0 {
                    out.push(',');
                }
                write_string(&key, out)?;
                out.push(':');
                write_canonical(value, depth + 1, out)?;
            }
            out.push('}');
        }
        Some(b'[') => {
            let Elements(elements) = serde_json::from_str(text).map_err(PayloadError::NotJson)?;
            out.push('[');
            for (index, element) in elements.into_iter().enumerate() {
                if index > 0 {
                    out.push(',');
                }
                write_canonical(element, depth + 1, out)?;
            }
            out.push(']');
        }
        Some(b'"') => {
            let string: String = serde_json::from_str(text).map_err(PayloadError::NotJson)?;
            write_string(&string, out)?;
        }
        _ => out.push_str(text),
    }
    Ok(())
}

fn write_string(string: &str, out: &mut String) -> Result<(), PayloadError> {
    out.push_str(&serde_json::to_string(string).map_err(PayloadError::NotJson)?);
    Ok(())
}

/// An object's members in written order, duplicates and all.
struct Members<'a>(Vec<(String, &'a RawValue)>);

impl<'de> serde::Deserialize<'de> for Members<'de> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct InOrder;
        impl<'de> Visitor<'de> for InOrder {
            type Value = Members<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(InOrder)
    }
}

/// An array's elements as written.
struct Elements<'a>(Vec<&'a RawValue>);

impl<'de> serde::Deserialize<'de> for Elements<'de> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct InOrder;
        impl<'de> Visitor<'de> for InOrder {
            type Value = Elements<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an array")
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
                let mut elements = Vec::new();
                while let Some(element) = seq.next_element()? {
                    elements.push(element);
                }
                Ok(Elements(elements))
            }
        }
        deserializer.deserialize_seq(InOrder)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_sorted_white_space_goes_and_numbers_stay_as_written() {
        let payload =
            Payload::parse(" { \"b\" : [1.0, 1e3 , -0],\n \"a\":{\"z\":\"\\u0041\\n\",\"y\":null} } ")
                .unwrap();

        assert_eq!(payload.as_str(), r#"{"a":{"y":null,"z":"A\n"},"b":[1.0,1e3,-0]}"#);
    }

    #[test]
    fn canonical_text_is_a_fixed_point() {
        for text in ["null", "12345678901234567890.000", "\"ü\"", "[]", "{}", r#"{"a":[{"b":1}]}"#] {
            let once = Payload::parse(text).unwrap();

            assert_eq!(Payload::parse(once.as_str()).unwrap(), once);
        }
    }

    #[test]
    fn every_bad_payload_is_refused_by_name() {
        assert!(matches!(Payload::parse("{"), Err(PayloadError::NotJson(_))));
        assert!(matches!(Payload::parse("1 2"), Err(PayloadError::NotJson(_))));
        assert!(
            matches!(Payload::parse(r#"[{"a":1,"\u0061":2}]"#), Err(PayloadError::DuplicateKey { key }) if key == "a")
        );
        let long = format!("\"{}\"", "x".repeat(PAYLOAD_BYTES_MAX - 1));
        assert!(
            matches!(Payload::parse(&long), Err(PayloadError::TooLong { found, .. }) if found == PAYLOAD_BYTES_MAX + 1)
        );
        assert!(Payload::parse(&format!("\"{}\"", "x".repeat(PAYLOAD_BYTES_MAX - 2))).is_ok());
        let huge = format!("\"{}\"", "x".repeat(17 * PAYLOAD_BYTES_MAX));
        assert!(matches!(Payload::parse(&huge), Err(PayloadError::TooLong { .. })));
        let deep = format!("{}{}", "[".repeat(70), "]".repeat(70));
        assert!(matches!(Payload::parse(&deep), Err(PayloadError::TooDeep { .. })));
    }

    #[test]
    fn members_are_read_where_they_are_strings_or_flags() {
        let payload = Payload::parse(r#"{"id":"a\tb","deleted":true,"n":1}"#).unwrap();

        assert_eq!(payload.string_member("id").as_deref(), Some("a\tb"));
        assert_eq!(payload.string_member("n"), None);
        assert!(payload.is_flagged("deleted"));
        assert!(!payload.is_flagged("id"));
    }
}
