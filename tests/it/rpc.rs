//! The control API as it describes itself, and every parameter given wrongly.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use crate::kin::{Caller, Home};
use crate::schema::{described, params_schema, problems};

#[test]
fn the_node_describes_every_method_it_answers() {
    let home = Home::init("a");
    let _daemon = home.up(&[]);
    let mut caller = Caller::connect(&home);

    let document = caller.call("rpc.discover", json!({}))["result"].clone();

    assert!(document["openrpc"].as_str().unwrap().starts_with("1.3."));
    assert_eq!(document["info"]["title"], "kinfold");
    assert!(document["info"]["version"].is_string());
    let version = caller.call("node.version", json!({}))["result"].clone();
    let named: Vec<&Value> =
        document["methods"].as_array().unwrap().iter().map(|method| &method["name"]).collect();
    assert_eq!(named, version["methods"].as_array().unwrap().iter().collect::<Vec<_>>());
    for method in document["methods"].as_array().unwrap() {
        is_well_formed(&document, method);
    }
    for (name, error) in document["components"]["errors"].as_object().unwrap() {
        assert!(error["code"].is_i64() && error["message"].is_string(), "{name}: {error}");
    }
    for (kind, says) in document["x-error-kinds"].as_object().unwrap() {
        assert!(says["temporary"].is_boolean(), "{kind}: {says}");
    }
    assert_eq!(document["x-error-kinds"]["TimedOut"]["temporary"], true);
    let notices: BTreeSet<&str> =
        document["x-notices"].as_object().unwrap().keys().map(|name| &**name).collect();
    let expected =
        ["bundle.progress", "pair.event", "pair.progress", "sync.changed", "sync.ended", "sync.lagged"];
    assert_eq!(notices, BTreeSet::from(expected));
}

/// What OpenRPC 1.3 asks of a method.
#[track_caller]
fn is_well_formed(document: &Value, method: &Value) {
    let name = method["name"].as_str().unwrap();
    assert!(!name.is_empty() && !method["summary"].as_str().unwrap().is_empty(), "{method}");
    assert_eq!(method["paramStructure"], "by-name");
    let mut is_optional = false;
    let mut names = BTreeSet::new();
    for param in method["params"].as_array().unwrap() {
        assert!(names.insert(param["name"].as_str().unwrap()), "{name} has a parameter twice");
        assert!(param["schema"].is_object() || param["schema"] == true, "{name}: {param}");
        assert!(!(is_optional && param["required"] == true), "{name}: required parameters come first");
        assert!(param["description"].is_string(), "{name}: {param} is not described");
        is_optional |= param["required"] == false;
    }
    assert!(method["result"]["name"].is_string() && !method["result"]["schema"].is_null(), "{name}");
    for error in method["errors"].as_array().unwrap() {
        let pointer = error["$ref"].as_str().unwrap().trim_start_matches('#');
        assert!(document.pointer(pointer).is_some(), "{name}: {error}");
    }
}

#[test]
fn every_parameter_of_every_method_is_refused_in_the_wrong_kind_or_range() {
    let home = Home::init("a");
    let _daemon = home.up(&[]);
    let mut caller = Caller::connect(&home);
    let document = caller.call("rpc.discover", json!({}))["result"].clone();
    let names: Vec<&str> = document["methods"]
        .as_array()
        .unwrap()
        .iter()
        .map(|method| method["name"].as_str().unwrap())
        .collect();
    let mut tried = 0;

    for name in names {
        let method = described(&document, name).unwrap();
        let sound = sound_params(method);
        assert_eq!(problems(&document, &params_schema(method), &sound), Vec::<String>::new(), "{name}");
        let mut refused = |params: Value| {
            let answer = caller.call(name, params.clone());
            let data = &answer["error"]["data"];
            assert_eq!(answer["error"]["code"], -32602, "{name} {params}: {answer}");
            assert_eq!(data["blame"], "local", "{name}: {answer}");
            assert!(
                data["kind"] == "InvalidParams" || data["kind"] == "PageLimit",
                "{name} {params}: {answer}"
            );
            tried += 1;
        };
        for whole in [json!([]), json!("x"), json!(7), json!(true)] {
            refused(whole);
        }
        refused(with(&sound, "no_such_parameter", json!(1)));
        for param in method["params"].as_array().unwrap() {
            let param_name = param["name"].as_str().unwrap();
            if param["required"] == true {
                let mut without = sound.clone();
                without.as_object_mut().unwrap().remove(param_name);
                refused(without);
            }
            for wrong in wrong_values() {
                if !problems(&document, &param["schema"], &wrong).is_empty() {
                    refused(with(&sound, param_name, wrong));
                }
            }
        }
    }
    assert!(tried > 500, "{tried} wrong requests are too few to have tried everything");
    assert_eq!(caller.call("node.version", json!({}))["result"]["name"], "kinfold");
}

/// The required parameters, each with something of its kind.
fn sound_params(method: &Value) -> Value {
    let required = method["params"].as_array().unwrap().iter().filter(|param| param["required"] == true);
    let members: Map<String, Value> = required
        .map(|param| {
            let name = param["name"].as_str().unwrap();
            let value = if name == "surface" { json!("skill") } else { sound_value(&param["schema"]) };
            (name.to_owned(), value)
        })
        .collect();
    Value::Object(members)
}

fn sound_value(schema: &Value) -> Value {
    if let Some(first) = schema["enum"].get(0) {
        return first.clone();
    }
    if let Some(value) = schema.get("const") {
        return value.clone();
    }
    if let Some(first) = schema["oneOf"].get(0).or_else(|| schema["anyOf"].get(0)) {
        return sound_value(first);
    }
    let kind = schema["type"].as_str().or_else(|| schema["type"].get(0).and_then(Value::as_str));
    match kind {
        Some("string") => json!("x"),
        Some("integer" | "number") => schema.get("minimum").cloned().unwrap_or(json!(1)),
        Some("boolean") => json!(false),
        Some("array") => json!([]),
        Some("object") => {
            let required = schema["required"].as_array().cloned().unwrap_or_default();
            let member = |name: &Value| {
                let name = name.as_str().unwrap();
                (name.to_owned(), sound_value(&schema["properties"][name]))
            };
            Value::Object(required.iter().map(member).collect())
        }
        Some("null") | None => Value::Null,
        Some(other) => panic!("{other} is no type"),
    }
}

/// One of every kind, and the numbers at the edges.
fn wrong_values() -> Vec<Value> {
    let deep = (0..100).fold(json!(1), |inner, _| json!([inner]));
    vec![
        Value::Null,
        json!(true),
        json!(0),
        json!(-1),
        json!(1.5),
        json!(1e300),
        json!(256),
        json!(1_001),
        json!(u64::from(u32::MAX) + 1),
        json!(u64::MAX),
        json!("no such word"),
        json!([]),
        json!([1]),
        json!({}),
        json!({"no_such_member": 1}),
        json!({"org": 7}),
        deep,
    ]
}

fn with(params: &Value, name: &str, value: Value) -> Value {
    let mut params = params.clone();
    params[name] = value;
    params
}
