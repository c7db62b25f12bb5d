//! A digest of a payload that does not depend on the order of its fields or on its blanks.

use std::fmt;

use ring::digest::{Context, SHA256};
use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};

/// Endings of the fields that name a medium by where it lies.
const PLACES: [&str; 2] = ["Url", "FilePath"];

/// The digest of a payload, in hexadecimal digits. `kind` is the job's type; of the object itself the field `without`
/// is left out. `None` for anything but JSON, and for a payload that names a medium by where it lies: another file
/// may lie there by now.
///
/// Large payloads hold media as text, which is hashed where it is: nothing of it is copied.
pub(super) fn of_payload(kind: &str, payload: &[u8], without: Option<&str>) -> Option<String> {
    let mut context = Context::new(&SHA256);
    text(&mut context, kind);
    let mut parser = serde_json::Deserializer::from_slice(payload);
    let part = Part {
        context: &mut context,
        without,
        is_place: false,
    };
    part.deserialize(&mut parser).ok()?;
    parser.end().ok()?;
    Some(hexadecimal(context))
}

/// The digest of some texts.
pub(super) fn of_texts(texts: &[&str]) -> String {
    let mut context = Context::new(&SHA256);
    texts.iter().for_each(|part| text(&mut context, part));
    hexadecimal(context)
}

fn hexadecimal(context: Context) -> String {
    let digest = context.finish();
    digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// With its length in front, so that two texts never read as two others.
fn text(context: &mut Context, text: &str) {
    context.update(b"s");
    context.update(&(text.len() as u64).to_be_bytes());
    context.update(text.as_bytes());
}

/// Hashes one JSON value into a context.
struct Part<'a> {
    context: &'a mut Context,
    /// A field of this object that is left out.
    without: Option<&'a str>,
    /// Returns true if the value stands in a field that names where a medium lies.
    is_place: bool,
}

impl<'de> DeserializeSeed<'de> for Part<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Part<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        self.context.update(b"n");
        Ok(())
    }

    fn visit_bool<E>(self, value: bool) -> Result<(), E> {
        self.context.update(if value { b"t" } else { b"f" });
        Ok(())
    }

    fn visit_u64<E>(self, value: u64) -> Result<(), E> {
        self.context.update(b"u");
        self.context.update(&value.to_be_bytes());
        Ok(())
    }

    fn visit_i64<E>(self, value: i64) -> Result<(), E> {
        self.context.update(b"i");
        self.context.update(&value.to_be_bytes());
        Ok(())
    }

    fn visit_f64<E>(self, value: f64) -> Result<(), E> {
        self.context.update(b"d");
        self.context.update(&value.to_bits().to_be_bytes());
        Ok(())
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<(), E> {
        // A blank field counts as absent, and a `data:` address holds the medium itself.
        if self.is_place && !value.trim().is_empty() && !value.trim_start().starts_with("data:") {
            return Err(E::custom("a medium that lies elsewhere"));
        }
        text(self.context, value);
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        self.context.update(b"[");
        while items
            .next_element_seed(Part {
                context: self.context,
                without: None,
                is_place: self.is_place,
            })?
            .is_some()
        {}
        self.context.update(b"]");
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<(), A::Error> {
        let mut fields = Vec::new();
        while let Some(name) = members.next_key::<String>()? {
            let mut context = Context::new(&SHA256);
            members.next_value_seed(Part {
                context: &mut context,
                without: None,
                is_place: PLACES.iter().any(|end| name.ends_with(end)),
            })?;
            if self.without != Some(name.as_str()) {
                fields.push((name, context.finish()));
            }
        }
        fields.sort_by(|(one, _), (other, _)| one.cmp(other));
        self.context.update(b"{");
        for (name, digest) in fields {
            text(self.context, &name);
            self.context.update(digest.as_ref());
        }
        self.context.update(b"}");
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(payload: &str) -> Option<String> {
        of_payload("t", payload.as_bytes(), None)
    }

    #[test]
    fn equal_payloads_have_one_digest() {
        let one = digest(r#"{"a":1,"b":{"x":[1,"ä"],"y":null}}"#);
        assert!(one.as_ref().is_some_and(|digest| digest.len() == 64));
        assert_eq!(
            one,
            digest("{ \"b\": {\"y\":null,\"x\":[1,\"\\u00e4\"]},\n\"a\": 1}")
        );
        let different = [
            r#"{"a":1,"b":{"x":[1,"ä"],"y":false}}"#,
            r#"{"a":"1","b":{"x":[1,"ä"],"y":null}}"#,
            r#"{"a":1,"b":{"x":["1ä"],"y":null}}"#,
            r#"{"a":1,"b":{"x":[[1,"ä"]],"y":null}}"#,
            r#"{"a":1,"b":{"x":[1,"ä"]}}"#,
            r#"{"a":1,"b":{},"x":[1,"ä"],"y":null}"#,
            r#"{"a":-1,"b":{"x":[1,"ä"],"y":null}}"#,
            r#"{"a":1.5,"b":{"x":[1,"ä"],"y":null}}"#,
            r#"{"ab":1}"#,
            r#"{"a":{"b":1}}"#,
            "[]",
            "{}",
            "true",
        ];
        let mut seen: Vec<_> = different.map(digest).into_iter().chain([one.clone()]).collect();
        seen.sort();
        seen.dedup();
        assert_eq!(seen.len(), different.len() + 1);
        assert_ne!(
            one,
            of_payload("u", br#"{"a":1,"b":{"x":[1,"\u00e4"],"y":null}}"#, None)
        );
    }

    #[test]
    fn a_field_of_the_object_itself_can_be_left_out() {
        let without = |payload: &str| of_payload("t", payload.as_bytes(), Some("userId"));
        assert_eq!(
            without(r#"{"userId":"ann","a":1}"#),
            without(r#"{"a":1,"userId":"bob"}"#)
        );
        assert_ne!(
            without(r#"{"a":{"userId":"ann"}}"#),
            without(r#"{"a":{"userId":"bob"}}"#)
        );
    }

    #[test]
    fn a_medium_that_lies_elsewhere_has_no_digest() {
        for payload in [
            r#"{"audioUrl":"https://x/a.wav"}"#,
            r#"{"images":[{"imageFilePath":"a.png"}]}"#,
            r#"{"imageUrl":["https://x"]}"#,
            "{",
            "",
            "{} {}",
            r#"{"a":"\ud83d"}"#,
        ] {
            assert_eq!(digest(payload), None, "{payload}");
        }
        for payload in [
            r#"{"audioBase64":"UklGRg==","audioUrl":"","audioFilePath":null}"#,
            r#"{"imageUrl":"data:image/png;base64,AAAA"}"#,
        ] {
            assert!(digest(payload).is_some(), "{payload}");
        }
    }
}
