//! A medium within a payload: a text, or the bytes themselves as JavaScript writes them.

use std::fmt;

use base64::{Engine, prelude::BASE64_STANDARD};
use serde::{
    Deserialize, Deserializer,
    de::{Error, IgnoredAny, MapAccess, SeqAccess, Visitor},
};

/// The forms that a field of a medium may have, for errors.
const EXPECTED: &str = "text, or bytes as a Node Buffer is written in JSON";
/// Why a list of bytes is refused.
const NO_BYTE: &str = "the bytes of a Buffer must be whole numbers from 0 to 255";

/// Reads a text, or the bytes of a `Buffer` (`{"type":"Buffer","data":[…]}`), of a `Uint8Array` (`{"0":137,…}`) or of
/// a list, which become base64.
pub(crate) fn medium<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    deserializer.deserialize_any(Medium)
}

struct Medium;

/// Members of an object that hold a medium: of a Buffer, of an uploaded file (multer), of a picture that a phone's
/// library picked, and of MongoDB's extended JSON.
const CONTENT: [&str; 4] = ["data", "buffer", "base64", "$binary"];

/// The base64 of bytes that were written as a text: as JSON once more (`"[137,80]"`), or by JavaScript's `String`
/// (`"137,80"`). `None` for any other text.
fn bytes_as_text(text: &str) -> Option<String> {
    let text = text.trim();
    if text.starts_with(['{', '[']) {
        let mut json = serde_json::Deserializer::from_str(text);
        let bytes = json.deserialize_any(Medium).ok().flatten();
        return bytes.filter(|_| json.end().is_ok());
    }
    let is_list = |b: u8| b.is_ascii_digit() || b == b',';
    if !text.contains(',') || !text.bytes().all(is_list) {
        return None;
    }
    let bytes: Result<Vec<u8>, _> = text.split(',').map(str::parse).collect();
    Some(BASE64_STANDARD.encode(bytes.ok()?))
}

impl<'de> Visitor<'de> for Medium {
    type Value = Option<String>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(EXPECTED)
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
        self.visit_string(text.to_owned())
    }

    fn visit_string<E: Error>(self, text: String) -> Result<Self::Value, E> {
        Ok(Some(bytes_as_text(&text).unwrap_or(text)))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Self::Value, A::Error> {
        let mut bytes = Vec::new();
        while let Some(BufferByte(byte)) = items.next_element()? {
            bytes.push(byte);
        }
        Ok(Some(BASE64_STANDARD.encode(bytes)))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Self::Value, A::Error> {
        let (mut bytes, mut data) = (Vec::new(), None);
        while let Some(name) = members.next_key::<String>()? {
            if data.is_none() && CONTENT.contains(&&*name) {
                data = members.next_value::<BufferContent>()?.0;
            } else if name.parse() == Ok(bytes.len()) {
                bytes.push(members.next_value::<BufferByte>()?.0);
            } else {
                members.next_value::<IgnoredAny>()?;
            }
        }
        match (data, bytes.is_empty()) {
            (Some(text), _) => Ok(Some(text)),
            (None, false) => Ok(Some(BASE64_STANDARD.encode(bytes))),
            (None, true) => Err(A::Error::custom(format_args!(
                "an object without bytes, expected {EXPECTED}"
            ))),
        }
    }
}

/// The `data` of a Buffer: its bytes, or a text.
struct BufferContent(Option<String>);

impl<'de> Deserialize<'de> for BufferContent {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Inner;
        impl<'de> Visitor<'de> for Inner {
            type Value = Option<String>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(EXPECTED)
            }

            fn visit_unit<E>(self) -> Result<Self::Value, E> {
                Ok(None)
            }

            fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
                Ok(Some(text.to_owned()))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, items: A) -> Result<Self::Value, A::Error> {
                Medium.visit_seq(items)
            }

            fn visit_map<A: MapAccess<'de>>(self, members: A) -> Result<Self::Value, A::Error> {
                Medium.visit_map(members)
            }
        }
        deserializer.deserialize_any(Inner).map(Self)
    }
}

/// One byte; those of Java have a sign.
struct BufferByte(u8);

impl<'de> Deserialize<'de> for BufferByte {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // Of a number that is none of these, nothing is repeated: it is part of a file.
        let number = i64::deserialize(deserializer).map_err(|_| D::Error::custom(NO_BYTE))?;
        let byte = u8::try_from(number).or_else(|_| i8::try_from(number).map(i8::cast_unsigned));
        byte.map(Self).map_err(|_| D::Error::custom(NO_BYTE))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn read(value: &Value) -> Result<Option<String>, String> {
        medium(value).map_err(|error| error.to_string())
    }

    #[test]
    fn bytes_are_read_as_javascript_writes_them() {
        let bytes = [137, 80, 78, 71];
        let buffer = json!({"type": "Buffer", "data": bytes});
        for value in [
            buffer.clone(),
            json!({"data": bytes}),
            json!({"type": "Buffer", "data": [-119, 80, 78, 71]}),
            json!({"type": "Buffer", "data": "iVBORw=="}),
            json!({"type": "Buffer", "data": buffer}),
            json!({"fieldname": "audio", "mimetype": "image/png", "buffer": buffer, "size": 4}),
            json!({"uri": "file:///data/1.png", "base64": "iVBORw==", "width": 1}),
            json!({"$binary": {"base64": "iVBORw==", "subType": "00"}}),
            json!({"0": 137, "1": 80, "2": 78, "3": 71}),
            json!(bytes),
            json!(buffer.to_string()),
            json!(format!(" {buffer}\n")),
            json!("[137, 80, 78, 71]"),
            json!("137,80,78,71"),
            json!("iVBORw=="),
        ] {
            assert_eq!(read(&value), Ok(Some("iVBORw==".to_owned())), "{value}");
        }
        assert_eq!(read(&Value::Null), Ok(None));
    }

    /// A refused text is not read as bytes, and a refusal repeats no byte of it.
    #[test]
    fn what_holds_no_bytes_is_refused_or_stays_a_text() {
        for value in [
            json!({}),
            json!({"type": "Buffer"}),
            json!({"data": [256]}),
            json!({"data": [1.5]}),
            json!({"data": ["SECRET"]}),
            json!([300]),
            json!([1e300]),
            json!({"a": {"b": 1}}),
        ] {
            let refusal = read(&value).unwrap_err();
            assert!(refusal.contains("Buffer"), "{value}: {refusal}");
            assert!(
                !refusal.contains("300") && !refusal.contains("SECRET"),
                "{refusal}"
            );
        }
        for text in [
            "{not json",
            "[1,2] and more",
            "[300]",
            "137,80,x",
            "1,256",
            ",",
            "137",
            "uploads/a,b.png",
            "https://example.com/a,b",
        ] {
            assert_eq!(read(&json!(text)), Ok(Some(text.to_owned())));
        }
        let deep = "[".repeat(100_000);
        assert_eq!(read(&json!(deep)), Ok(Some(deep)));
    }
}
