//! JSON-RPC 2.0 envelopes: requests in, answers and notices out.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::error::{ControlError, RpcError};

/// One request as read from a line.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    /// `"2.0"`; absent is taken as that.
    #[serde(default)]
    pub jsonrpc: Option<String>,
    /// Given back with the answer; absent in a notification, which is not answered.
    #[serde(default, deserialize_with = "present")]
    pub id: Option<Box<RawValue>>,
    /// The method's name.
    pub method: String,
    /// Its parameters, an object.
    #[serde(default)]
    pub params: Option<Box<RawValue>>,
}

impl Request {
    /// Reads a line.
    ///
    /// # Errors
    /// `NotJson` for a line that is not one JSON value, `BatchRequest` for several requests in an array,
    /// `InvalidRequest` for what is no request; with the request's id where it could be read.
    pub fn parse(line: &[u8]) -> Result<Self, (Option<Box<RawValue>>, ControlError)> {
        let begins_array = line.trim_ascii_start().first() == Some(&b'[');
        let request: Self = match serde_json::from_slice(line) {
            // An array may hold what a request holds, in order; it is a batch nevertheless.
            Ok(_) if begins_array => return Err((None, ControlError::BatchRequest)),
            Ok(request) => request,
            Err(source) => return Err(Self::problem(line, source)),
        };
        if request.jsonrpc.as_deref().is_some_and(|version| version != "2.0") {
            let found = request.jsonrpc.unwrap_or_default().chars().take(16).collect();
            return Err((request.id, ControlError::WrongJsonRpc { found }));
        }
        Ok(request)
    }

    fn problem(line: &[u8], source: serde_json::Error) -> (Option<Box<RawValue>>, ControlError) {
        if serde_json::from_slice::<&RawValue>(line).is_err() {
            return (None, ControlError::NotJson(source));
        }
        if line.trim_ascii_start().first() == Some(&b'[') {
            return (None, ControlError::BatchRequest);
        }
        let id = serde_json::from_slice::<IdOnly>(line).ok().and_then(|only| only.id);
        (id, ControlError::InvalidRequest(source))
    }
}

/// The answer to a request.
#[derive(Debug, Serialize)]
pub struct Answer<'a> {
    jsonrpc: &'static str,
    id: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    result: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a RpcError>,
}

impl<'a> Answer<'a> {
    /// The answer to the request with this id; `None` where the id could not be read.
    pub fn new(id: Option<&'a RawValue>, outcome: &'a Result<Box<RawValue>, RpcError>) -> Self {
        let (result, error) = match outcome {
            Ok(result) => (Some(&**result), None),
            Err(error) => (None, Some(error)),
        };
        Self { jsonrpc: "2.0", id, result, error }
    }

    /// The answer as one line, line feed included.
    pub fn to_line(&self) -> String {
        line(self)
    }
}

/// A notice as one line, line feed included.
pub fn notice_line(method: &str, params: &RawValue) -> String {
    #[derive(Serialize)]
    struct NoticeEnvelope<'a> {
        jsonrpc: &'static str,
        method: &'a str,
        params: &'a RawValue,
    }
    line(&NoticeEnvelope { jsonrpc: "2.0", method, params })
}

/// A request as one line, line feed included.
pub fn request_line(id: u64, method: &str, params: &RawValue) -> String {
    #[derive(Serialize)]
    struct RequestEnvelope<'a> {
        jsonrpc: &'static str,
        id: u64,
        method: &'a str,
        params: &'a RawValue,
    }
    line(&RequestEnvelope { jsonrpc: "2.0", id, method, params })
}

/// What a client reads: an answer where `id` is present, a notice where `method` is.
#[derive(Debug, Deserialize)]
pub struct Incoming {
    /// The request's id.
    #[serde(default)]
    pub id: Option<u64>,
    /// The method of a notice.
    #[serde(default)]
    pub method: Option<String>,
    /// The parameters of a notice.
    #[serde(default)]
    pub params: Option<Box<RawValue>>,
    /// What the method answered.
    #[serde(default, deserialize_with = "present")]
    pub result: Option<Box<RawValue>>,
    /// Why it did not.
    #[serde(default)]
    pub error: Option<RpcError>,
}

#[derive(Deserialize)]
struct IdOnly {
    #[serde(default, deserialize_with = "present")]
    id: Option<Box<RawValue>>,
}

/// Tells `null` from absent.
fn present<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<Box<RawValue>>, D::Error> {
    Box::<RawValue>::deserialize(deserializer).map(Some)
}

fn line(envelope: &impl Serialize) -> String {
    let mut text = serde_json::to_string(envelope).expect("envelopes have string keys and no failing parts");
    text.push('\n');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_absent_id_is_a_notification_and_a_null_id_is_not() {
        let silent = Request::parse(br#"{"jsonrpc":"2.0","method":"node.version"}"#).unwrap();
        let null = Request::parse(br#"{"jsonrpc":"2.0","id":null,"method":"node.version"}"#).unwrap();

        assert!(silent.id.is_none());
        assert_eq!(null.id.unwrap().get(), "null");
    }

    #[test]
    fn bad_envelopes_are_named_and_keep_their_id() {
        let refused = |text: &str| {
            let (id, error) = Request::parse(text.as_bytes()).unwrap_err();
            (id.map(|id| id.get().to_owned()), error.kind())
        };

        assert_eq!(refused("nonsense"), (None, "NotJson"));
        assert_eq!(refused("7"), (None, "InvalidRequest"));
        assert_eq!(refused("[]"), (None, "BatchRequest"));
        assert_eq!(refused(r#" [{"id":1,"method":"x"}]"#), (None, "BatchRequest"));
        assert_eq!(refused(r#"["2.0",1,"node.version",{}]"#), (None, "BatchRequest"));
        assert_eq!(refused("[1,"), (None, "NotJson"));
        assert_eq!(refused(r#"{"id":7}"#), (Some("7".into()), "InvalidRequest"));
        assert_eq!(refused(r#"{"id":"a","method":"x","extra":1}"#), (Some("\"a\"".into()), "InvalidRequest"));
        assert_eq!(refused(r#"{"jsonrpc":"1.0","id":1,"method":"x"}"#), (Some("1".into()), "WrongJsonRpc"));
    }

    #[test]
    fn numbers_of_a_payload_keep_their_text() {
        let request = Request::parse(br#"{"id":1,"method":"m","params":{"payload":1.00e2}}"#).unwrap();

        assert_eq!(request.params.unwrap().get(), r#"{"payload":1.00e2}"#);
    }
}
