//! The control API as an OpenRPC 1.3 document, made from the table of methods and the types they use.
//!
//! Owns the document's form and nothing it says: names and texts come from [`Method`], schemas from the
//! types of parameters, answers and notices. See <https://spec.open-rpc.org>.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use schemars::generate::{SchemaGenerator, SchemaSettings};
use schemars::{JsonSchema, Schema};
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::bundle::BundleProgressForm;
use super::error::{
    CODE_INTERNAL, CODE_METHOD, CODE_PARAMS, CODE_PARSE, CODE_REFUSED, CODE_REQUEST, ControlError,
    RpcErrorData,
};
use super::forms::{ChangeForm, EndedForm, LaggedForm};
use super::kinds::described;
use super::method::Method;
use super::pairing::{PairEventForm, PairProgressForm};
use super::params::NoParams;
use crate::node::Node;

/// An OpenRPC document.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct OpenRpcForm(Value);

impl JsonSchema for OpenRpcForm {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        "OpenRpcForm".into()
    }

    /// The rules of such a document are OpenRPC's own.
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        schemars::json_schema!({
            "type": "object",
            "description": "An OpenRPC 1.3 document",
            "required": ["openrpc", "info", "methods"]
        })
    }
}

/// What a method takes and answers.
pub(super) struct Signature {
    /// An object schema without references.
    params: Schema,
    result: fn(&mut SchemaGenerator) -> Schema,
}

impl Signature {
    pub fn of<P: JsonSchema, R: JsonSchema>() -> Self {
        // Parameters stand whole in their method: what may be left out differs between reading and writing.
        let settings = SchemaSettings::draft07().with(|settings| {
            settings.inline_subschemas = true;
            settings.meta_schema = None;
        });
        Self {
            params: settings.into_generator().into_root_schema_for::<P>(),
            result: SchemaGenerator::subschema_for::<R>,
        }
    }

    /// The parameters as OpenRPC lists them: what must be there first.
    fn descriptors(&self) -> Vec<Value> {
        let empty = Map::new();
        let properties = self.params.get("properties").and_then(Value::as_object).unwrap_or(&empty);
        let required = self.params.get("required").and_then(Value::as_array);
        let is_required =
            |name: &str| required.is_some_and(|names| names.iter().any(|found| found.as_str() == Some(name)));
        let mut descriptors: Vec<(bool, Value)> = properties
            .iter()
            .map(|(name, schema)| (is_required(name), descriptor(name, schema.clone(), is_required(name))))
            .collect();
        descriptors.sort_by_key(|(is_required, _)| !is_required);
        descriptors.into_iter().map(|(_, descriptor)| descriptor).collect()
    }
}

/// The document.
pub(super) async fn discover(_: &Node, NoParams {}: NoParams) -> Result<OpenRpcForm, ControlError> {
    Ok(OpenRpcForm(document().clone()))
}

/// The document, made once.
fn document() -> &'static Value {
    static DOCUMENT: OnceLock<Value> = OnceLock::new();
    DOCUMENT.get_or_init(build)
}

fn build() -> Value {
    let settings = SchemaSettings::draft07().for_serialize().with(|settings| {
        settings.definitions_path = "/components/schemas".into();
        settings.meta_schema = None;
    });
    let mut schemas = settings.into_generator();
    let data = schemas.subschema_for::<RpcErrorData>();
    let methods: Vec<Value> = Method::ALL.iter().map(|method| describe(*method, &mut schemas)).collect();
    let notices = json!({
        "sync.changed": schemas.subschema_for::<ChangeForm>(),
        "sync.lagged": schemas.subschema_for::<LaggedForm>(),
        "sync.ended": schemas.subschema_for::<EndedForm>(),
        "pair.event": schemas.subschema_for::<PairEventForm>(),
        "pair.progress": schemas.subschema_for::<PairProgressForm>(),
        "bundle.progress": schemas.subschema_for::<BundleProgressForm>(),
    });
    let mut document = json!({
        "openrpc": "1.3.2",
        "info": {
            "title": env!("CARGO_PKG_NAME"),
            "version": env!("CARGO_PKG_VERSION"),
            "description": env!("CARGO_PKG_DESCRIPTION"),
            "license": { "name": env!("CARGO_PKG_LICENSE") },
        },
        "servers": [{
            "name": "socket",
            "url": "unix:control.sock",
            "description": "In the node's home; one message per line, for processes of the same user",
        }],
        "methods": methods,
        "components": { "schemas": schemas.take_definitions(true), "errors": errors(&data) },
        "x-notices": notices,
        "x-error-kinds": described(),
    });
    plain_text(&mut document);
    document
}

fn describe(method: Method, schemas: &mut SchemaGenerator) -> Value {
    let signature = method.signature();
    let text = method.summary().trim();
    let summary = text.lines().next().unwrap_or_default().trim().trim_end_matches('.');
    let errors: Vec<Value> =
        ERRORS.iter().map(|(name, ..)| json!({ "$ref": format!("#/components/errors/{name}") })).collect();
    json!({
        "name": method.name(),
        "summary": summary,
        "description": text.lines().map(str::trim).collect::<Vec<_>>().join("\n"),
        "paramStructure": "by-name",
        "params": signature.descriptors(),
        "result": descriptor("result", (signature.result)(schemas).to_value(), true),
        "errors": errors,
    })
}

fn descriptor(name: &str, mut schema: Value, required: bool) -> Value {
    let description = schema.as_object_mut().and_then(|schema| schema.remove("description"));
    let mut descriptor = json!({ "name": name, "required": required, "schema": schema });
    if let Some(description) = description {
        descriptor["description"] = description;
    }
    descriptor
}

/// One error for each JSON-RPC code; which of the kinds in `x-error-kinds` it is stands in its data.
fn errors(data: &Schema) -> BTreeMap<&'static str, Value> {
    let form = |(name, code, message): &(&'static str, i64, &str)| {
        let error = json!({ "code": code, "message": message, "data": { "schema": data } });
        (*name, error)
    };
    ERRORS.iter().map(form).collect()
}

/// Doc comments link to items; readers of the document have none.
fn plain_text(value: &mut Value) {
    match value {
        Value::Object(members) => {
            if let Some(Value::String(text)) = members.get_mut("description") {
                *text = without_links(text);
            }
            members.values_mut().for_each(plain_text);
        }
        Value::Array(items) => items.iter_mut().for_each(plain_text),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// ``[`A`](super::A)`` and ``[`A`]`` become `A`.
fn without_links(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("[`") {
        plain.push_str(before);
        let Some((name, after)) = after.split_once("`]") else {
            rest = after;
            break;
        };
        plain.push_str(name);
        rest = match after.strip_prefix('(').and_then(|target| target.split_once(')')) {
            Some((_, after)) => after,
            None => after,
        };
    }
    plain.push_str(rest);
    plain
}

/// What any method may be refused with: name, code and message.
const ERRORS: [(&str, i64, &str); 6] = [
    ("NotJson", CODE_PARSE, "the message is not JSON"),
    ("InvalidRequest", CODE_REQUEST, "the message is no request"),
    ("UnknownMethod", CODE_METHOD, "no method has this name"),
    ("InvalidParams", CODE_PARAMS, "the parameters do not fit the method"),
    ("Lost", CODE_INTERNAL, "the request ended without an answer"),
    ("Refused", CODE_REFUSED, "the node refused; the kind says why, the hint what to do"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptions_lose_their_links_and_nothing_else() {
        assert_eq!(without_links("1 to [`MAX`](super::MAX); [`A`] or [x]"), "1 to MAX; A or [x]");
        assert_eq!(without_links("no [`end"), "no end");
        assert_eq!(without_links("`plain` (text)"), "`plain` (text)");
    }

    #[test]
    fn every_reference_leads_to_something_in_the_document() {
        fn references<'a>(value: &'a Value, found: &mut Vec<&'a str>) {
            match value {
                Value::Object(members) => {
                    found.extend(members.get("$ref").and_then(Value::as_str));
                    members.values().for_each(|value| references(value, found));
                }
                Value::Array(items) => items.iter().for_each(|value| references(value, found)),
                Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
            }
        }
        let mut found = Vec::new();
        references(document(), &mut found);

        assert!(found.len() > Method::ALL.len());
        for reference in found {
            let pointer = reference.strip_prefix('#').expect("references stay within the document");
            assert!(document().pointer(pointer).is_some(), "{reference} leads nowhere");
        }
    }
}
