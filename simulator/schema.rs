//! JSON Schema as OpenAI's strict mode takes it: whether a schema is allowed, and a value that satisfies it.

use serde_json::{Map, Value, json};

use super::digest;

/// Keywords that strict mode refuses.
const REFUSED: [&str; 10] = [
    "allOf",
    "dependentRequired",
    "dependentSchemas",
    "else",
    "if",
    "not",
    "oneOf",
    "patternProperties",
    "then",
    "unevaluatedProperties",
];

/// Nesting that strict mode allows.
const MAX_DEPTH: usize = 10;

/// Values in one answer: a schema may ask for lists in lists in lists.
const MAX_VALUES: usize = 20_000;

/// Items of one list.
const MAX_ITEMS: u64 = 200;

/// Checks a schema as strict mode does.
///
/// # Errors
/// What is wrong and where, in OpenAI's words.
pub(super) fn check_strict(schema: &Value) -> Result<(), String> {
    if schema["type"] != "object" || schema.get("anyOf").is_some() {
        let kind = schema
            .get("type")
            .map_or_else(|| "\"None\"".to_owned(), Value::to_string);
        return Err(format!(
            "schema must be a JSON Schema of 'type: \"object\"', got 'type: {kind}'."
        ));
    }
    check(schema, &mut Vec::new(), 0)
}

fn check(schema: &Value, path: &mut Vec<String>, depth: usize) -> Result<(), String> {
    let wrong = |path: &[String], what: &str| Err(format!("In context=({}), {what}", path.join(", ")));
    let Some(keys) = schema.as_object() else {
        return wrong(path, &format!("{schema} is not of type 'object'."));
    };
    if let Some(keyword) = REFUSED.into_iter().find(|keyword| keys.contains_key(*keyword)) {
        return wrong(path, &format!("'{keyword}' is not permitted."));
    }
    if depth > MAX_DEPTH {
        return wrong(path, &format!("more than {MAX_DEPTH} levels of nesting."));
    }
    if !["type", "$ref", "anyOf", "enum", "const"]
        .iter()
        .any(|key| keys.contains_key(*key))
    {
        return wrong(path, "schema must have a 'type' key.");
    }
    if is(schema, "object") {
        if schema["additionalProperties"] != false {
            return wrong(
                path,
                "'additionalProperties' is required to be supplied and to be false.",
            );
        }
        let none = Map::new();
        let properties = schema["properties"].as_object().unwrap_or(&none);
        let required: Vec<&str> = schema["required"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .collect();
        if let Some(absent) = properties.keys().find(|key| !required.contains(&key.as_str())) {
            let what = "'required' is required to be supplied and to be an array including every key in \
                        properties. Missing";
            return wrong(path, &format!("{what} '{absent}'."));
        }
        if let Some(extra) = required.iter().find(|key| !properties.contains_key(**key)) {
            return wrong(
                path,
                &format!("'required' names '{extra}', which is no property."),
            );
        }
    }
    if is(schema, "array") && schema.get("items").is_none() {
        return wrong(path, "array schema missing items.");
    }
    for group in ["properties", "$defs", "definitions"] {
        for (name, inner) in schema[group].as_object().into_iter().flatten() {
            descend(inner, [format!("'{group}'"), format!("'{name}'")], path, depth)?;
        }
    }
    for (i, inner) in schema["anyOf"].as_array().into_iter().flatten().enumerate() {
        descend(inner, ["'anyOf'".to_owned(), format!("'{i}'")], path, depth)?;
    }
    if let Some(items) = schema.get("items") {
        descend(items, ["'items'".to_owned()], path, depth)?;
    }
    Ok(())
}

fn descend<const N: usize>(
    inner: &Value,
    steps: [String; N],
    path: &mut Vec<String>,
    depth: usize,
) -> Result<(), String> {
    path.extend(steps);
    check(inner, path, depth + 1)?;
    path.truncate(path.len() - N);
    Ok(())
}

/// Returns true if the schema admits this type.
fn is(schema: &Value, kind: &str) -> bool {
    match &schema["type"] {
        Value::String(name) => name == kind,
        Value::Array(names) => names.iter().any(|name| name == kind),
        _ => false,
    }
}

/// What the contents of an answer are drawn from.
pub(super) struct SchemaSeed {
    /// Sixteen hexadecimal digits of the prompt.
    hash: String,
    number: u64,
    words: Vec<String>,
    count: usize,
}

impl SchemaSeed {
    /// From the prompt; `count` is the length of the list it asks for.
    pub(super) fn new(prompt: &str, count: usize) -> Self {
        let number = digest::of(&[prompt.as_bytes()]);
        // Of a prompt in JSON, the longest text is the material.
        let material = serde_json::from_str::<Map<String, Value>>(prompt)
            .ok()
            .and_then(|fields| {
                let texts = fields
                    .into_iter()
                    .filter_map(|(_, value)| value.as_str().map(str::to_owned));
                texts.max_by_key(String::len)
            });
        let mut words: Vec<String> = Vec::new();
        for word in material
            .as_deref()
            .unwrap_or(prompt)
            .split(|c: char| !c.is_alphanumeric())
        {
            let word: String = word.chars().take(24).collect();
            if word.chars().count() >= 4 && !words.contains(&word) {
                words.push(word);
            }
            if words.len() == 64 {
                break;
            }
        }
        if words.is_empty() {
            words.push("nothing".to_owned());
        }
        Self {
            hash: digest::hex(number),
            number,
            words,
            count,
        }
    }

    /// A plain answer.
    pub(super) fn sentence(&self) -> String {
        format!("An answer about {} [{}].", self.word(0), self.hash)
    }

    fn word(&self, i: usize) -> &str {
        &self.words[i % self.words.len()]
    }

    /// The text of the property of this name, in item `i` of its list.
    fn text(&self, name: &str, i: usize) -> String {
        let (hash, word) = (&self.hash, self.word(i));
        format!("{name} {word} [{hash}-{i}]")
    }
}

/// A value that satisfies the schema.
pub(super) fn fill(schema: &Value, seed: &SchemaSeed) -> Value {
    SchemaFiller {
        root: schema,
        seed,
        left: MAX_VALUES,
    }
    .value(schema, "answer", 0, 0)
}

struct SchemaFiller<'a> {
    root: &'a Value,
    seed: &'a SchemaSeed,
    left: usize,
}

impl SchemaFiller<'_> {
    /// The value of property `name` in item `i` of the list around it.
    fn value(&mut self, schema: &Value, name: &str, i: usize, depth: usize) -> Value {
        // A schema may refer to itself without end, and more than once at each level.
        if self.left == 0 || depth > 4 * MAX_DEPTH {
            return Value::Null;
        }
        self.left -= 1;
        if let Some(target) = schema["$ref"].as_str() {
            let target = target
                .strip_prefix('#')
                .and_then(|pointer| self.root.pointer(pointer));
            return target.map_or(Value::Null, |schema| self.value(schema, name, i, depth + 1));
        }
        if let Some(value) = schema.get("const") {
            return value.clone();
        }
        if let Some(values) = schema["enum"].as_array().filter(|values| !values.is_empty()) {
            let pick = digest::mix(self.seed.number ^ i as u64) % values.len() as u64;
            return values[usize::try_from(pick).unwrap_or(0)].clone();
        }
        if let Some(options) = schema["anyOf"].as_array() {
            let (nulls, others): (Vec<_>, Vec<_>) = options.iter().partition(|option| is(option, "null"));
            return match others.first() {
                Some(option) if nulls.is_empty() || !left_out(i) => self.value(option, name, i, depth + 1),
                _ => Value::Null,
            };
        }
        if is(schema, "null") && left_out(i) {
            return Value::Null;
        }
        if is(schema, "object") {
            let properties = schema["properties"].as_object().into_iter().flatten();
            return properties
                .map(|(name, inner)| (name.clone(), self.value(inner, name, i, depth + 1)))
                .collect::<Map<_, _>>()
                .into();
        }
        if is(schema, "array") {
            return self.list(schema, name, depth);
        }
        if is(schema, "string") {
            return self.seed.text(name, i).into();
        }
        if is(schema, "integer") || is(schema, "number") {
            return schema.get("minimum").cloned().unwrap_or_else(|| json!(1));
        }
        if is(schema, "boolean") {
            json!(i.is_multiple_of(2))
        } else {
            Value::Null
        }
    }

    fn list(&mut self, schema: &Value, name: &str, depth: usize) -> Value {
        let items = &schema["items"];
        // The outermost list of things is what the prompt asked for; others are details.
        let wanted = if depth <= 1 { self.seed.count as u64 } else { 3 };
        let least = schema["minItems"].as_u64().unwrap_or(0).min(MAX_ITEMS);
        let most = schema["maxItems"]
            .as_u64()
            .unwrap_or(MAX_ITEMS)
            .clamp(least, MAX_ITEMS.max(least));
        let mut list = Vec::new();
        for i in 0..usize::try_from(wanted.clamp(least, most)).unwrap_or(0) {
            if self.left == 0 {
                break;
            }
            list.push(self.value(items, name, i, depth + 1));
        }
        list.into()
    }
}

/// Every third optional value is left out.
fn left_out(i: usize) -> bool {
    i % 3 == 2
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_schema_that_doubles_at_each_level_is_filled_to_the_bound() {
        fn count(value: &Value) -> usize {
            1 + value
                .as_object()
                .into_iter()
                .flatten()
                .map(|(_, inner)| count(inner))
                .sum::<usize>()
        }
        let schema = json!({
            "type": "object", "properties": {"a": {"$ref": "#"}, "b": {"$ref": "#"}},
        });
        let values = count(&fill(&schema, &SchemaSeed::new("prompt", 20)));
        assert!((100..=2 * MAX_VALUES).contains(&values), "{values}");
    }
}
