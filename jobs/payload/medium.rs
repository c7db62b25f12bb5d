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

impl<'de> Visitor<'de> for Medium {
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

    fn visit_string<E>(self, text: String) -> Result<Self::Value, E> {
        Ok(Some(text))
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
            if name == "data" {
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
