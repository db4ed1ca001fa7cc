//! JSON Schema as far as the control API uses it: enough to hold its requests and answers against what
//! it publishes. A keyword that is not known here fails the test, so that nothing passes unjudged.

use serde_json::{Value, json};

/// Holds a call against the document that describes it.
#[track_caller]
pub fn check_call(document: &Value, method: &str, params: &Value, answer: &Value) {
    let Some(described) = described(document, method) else {
        assert_eq!(answer["error"]["data"]["kind"], "UnknownMethod", "{method} is not described: {answer}");
        return;
    };
    if let Some(error) = answer.get("error") {
        let codes: Vec<i64> = described["errors"]
            .as_array()
            .expect("a method lists its errors")
            .iter()
            .map(|error| resolve(document, error)["code"].as_i64().expect("an error has a code"))
            .collect();
        assert!(codes.contains(&error["code"].as_i64().unwrap()), "{method} does not list {error}");
        let data = json!({"$ref": "#/components/schemas/RpcErrorData"});
        assert_eq!(problems(document, &data, &error["data"]), Vec::<String>::new(), "{method}: {error}");
        let kind = error["data"]["kind"].as_str().unwrap();
        assert!(document["x-error-kinds"][kind].is_object(), "{method}: {kind} is not listed");
        return;
    }
    let taken = problems(document, &params_schema(described), params);
    assert_eq!(taken, Vec::<String>::new(), "{method} takes what it does not describe: {params}");
    let found = problems(document, &described["result"]["schema"], &answer["result"]);
    assert_eq!(found, Vec::<String>::new(), "{method} answers what it does not describe: {answer}");
}

/// What the document says of a method.
pub fn described<'a>(document: &'a Value, method: &str) -> Option<&'a Value> {
    document["methods"].as_array()?.iter().find(|described| described["name"] == method)
}

/// The parameters of a method as one schema.
pub fn params_schema(method: &Value) -> Value {
    let params = method["params"].as_array().expect("a method lists its parameters");
    let required: Vec<&Value> =
        params.iter().filter(|param| param["required"] == true).map(|param| &param["name"]).collect();
    let properties: serde_json::Map<String, Value> = params
        .iter()
        .map(|param| (param["name"].as_str().expect("named").to_owned(), param["schema"].clone()))
        .collect();
    json!({"type": "object", "required": required, "properties": properties, "additionalProperties": false})
}

/// Where a value differs from what a schema of `document` asks.
pub fn problems(document: &Value, schema: &Value, value: &Value) -> Vec<String> {
    let mut found = Vec::new();
    judge(document, schema, value, "", &mut found);
    found
}

fn resolve<'a>(document: &'a Value, schema: &'a Value) -> &'a Value {
    match schema.get("$ref").and_then(Value::as_str) {
        Some(reference) => {
            let pointer = reference.strip_prefix('#').expect("references stay within the document");
            document.pointer(pointer).unwrap_or_else(|| panic!("{reference} leads nowhere"))
        }
        None => schema,
    }
}

fn judge(document: &Value, schema: &Value, value: &Value, at: &str, found: &mut Vec<String>) {
    let keywords = match schema {
        Value::Bool(true) => return,
        Value::Bool(false) => return found.push(format!("{at}: nothing is allowed here")),
        Value::Object(keywords) => keywords,
        other => panic!("{other} is no schema"),
    };
    let holds = |schema: &Value| problems(document, schema, value).is_empty();
    for (keyword, rule) in keywords {
        let rules = || rule.as_array().expect("a list of schemas");
        let number = || rule.as_f64().expect("a number");
        let is_met = match keyword.as_str() {
            "$ref" => {
                judge(document, resolve(document, schema), value, at, found);
                true
            }
            "type" => match rule {
                Value::Array(names) => names.iter().any(|name| is_a(value, name.as_str().unwrap())),
                name => is_a(value, name.as_str().unwrap()),
            },
            "enum" => rules().contains(value),
            "const" => rule == value,
            "minimum" => value.as_f64().is_none_or(|found| found >= number()),
            "maximum" => value.as_f64().is_none_or(|found| found <= number()),
            "minLength" => value.as_str().is_none_or(|text| text.chars().count() as f64 >= number()),
            "maxLength" => value.as_str().is_none_or(|text| text.chars().count() as f64 <= number()),
            "minItems" => value.as_array().is_none_or(|items| items.len() as f64 >= number()),
            "maxItems" => value.as_array().is_none_or(|items| items.len() as f64 <= number()),
            "format" => match rule.as_str().unwrap() {
                "uint8" => value.is_null() || value.as_u64().is_some_and(|found| found <= u8::MAX.into()),
                "uint16" => value.is_null() || value.as_u64().is_some_and(|found| found <= u16::MAX.into()),
                "uint32" => value.is_null() || value.as_u64().is_some_and(|found| found <= u32::MAX.into()),
                "uint" | "uint64" => value.is_null() || value.is_u64(),
                "int64" => value.is_null() || value.is_i64(),
                other => panic!("the format {other} is not known to this test"),
            },
            "anyOf" => rules().iter().any(holds),
            "oneOf" => rules().iter().filter(|schema| holds(schema)).count() == 1,
            "allOf" => rules().iter().all(holds),
            "required" => value.as_object().is_none_or(|members| {
                rules().iter().all(|name| members.contains_key(name.as_str().unwrap()))
            }),
            "properties" => {
                for (name, schema) in rule.as_object().unwrap() {
                    if let Some(member) = value.get(name) {
                        judge(document, schema, member, &format!("{at}.{name}"), found);
                    }
                }
                true
            }
            "additionalProperties" => {
                let named = keywords.get("properties").and_then(Value::as_object);
                for (name, member) in value.as_object().into_iter().flatten() {
                    if !named.is_some_and(|named| named.contains_key(name)) {
                        judge(document, rule, member, &format!("{at}.{name}"), found);
                    }
                }
                true
            }
            "items" => {
                for (index, item) in value.as_array().into_iter().flatten().enumerate() {
                    judge(document, rule, item, &format!("{at}[{index}]"), found);
                }
                true
            }
            "description" | "default" | "title" => true,
            other => panic!("the keyword {other} is not known to this test"),
        };
        if !is_met {
            found.push(format!("{at}: {keyword} {rule} is not met"));
        }
    }
}

fn is_a(value: &Value, name: &str) -> bool {
    match name {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "integer" => {
            value.is_u64() || value.is_i64() || value.as_f64().is_some_and(|found| found.fract() == 0.0)
        }
        "number" => value.is_number(),
        "string" => value.is_string(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        other => panic!("{other} is no type"),
    }
}

#[test]
fn a_value_is_held_against_every_rule() {
    let document = json!({"d": {"type": "string", "enum": ["a"]}});
    let schema = json!({
        "type": "object", "required": ["n"], "additionalProperties": false,
        "properties": {
            "n": {"type": "integer", "minimum": 1, "maximum": 3},
            "l": {"type": ["array", "null"], "items": {"$ref": "#/d"}, "maxItems": 1},
            "o": {"oneOf": [{"type": "string"}, {"const": 1}]},
            "u": {"format": "uint8"},
        },
    });
    let count = |value: Value| problems(&document, &schema, &value).len();

    assert_eq!(count(json!({"n": 1, "l": ["a"], "o": "x", "u": 255})), 0);
    assert_eq!(count(json!({"n": 1, "l": null, "o": 1})), 0);
    for wrong in [
        json!({}),
        json!([]),
        json!({"n": 0}),
        json!({"n": 4}),
        json!({"n": 1.5}),
        json!({"n": 1, "l": ["b"]}),
        json!({"n": 1, "l": ["a", "a"]}),
        json!({"n": 1, "o": 2}),
        json!({"n": 1, "u": 256}),
        json!({"n": 1, "more": 1}),
    ] {
        assert_eq!(count(wrong.clone()), 1, "{wrong}");
    }
}
