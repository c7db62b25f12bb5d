//! The members and items of JSON that stays text.

use std::{borrow::Cow, fmt, marker::PhantomData};

use serde::{
    Deserialize, Deserializer,
    de::{IgnoredAny, MapAccess, SeqAccess, Visitor},
};
use serde_json::value::RawValue;

/// Items of an array that are read at most: a content in more parts than this is not read further.
const MOST_PARTS: usize = 256;

pub(super) fn string(json: &str) -> Option<String> {
    json.starts_with('"').then(|| serde_json::from_str(json).ok())?
}

/// A count from 0, also one that was written as text or as a fraction.
pub(super) fn number(json: &str) -> Option<u64> {
    let text = json.trim_matches('"').trim();
    text.parse().ok().or_else(|| {
        let count = text.parse::<f64>().ok()?.trunc();
        (0.0..=1e15)
            .contains(&count)
            .then(|| format!("{count:.0}").parse().ok())?
    })
}

/// The first items of an array; the value itself, where a provider sends it without an array.
pub(super) fn items_or_itself(json: &str) -> Vec<&str> {
    match serde_json::from_str::<ArrayItems<'_>>(json) {
        Ok(items) => items.0,
        Err(_) => json.starts_with('{').then_some(json).into_iter().collect(),
    }
}

/// The JSON texts of the first items of an array.
pub(super) struct ArrayItems<'a>(pub(super) Vec<&'a str>);

impl<'a> Deserialize<'a> for ArrayItems<'a> {
    fn deserialize<D: Deserializer<'a>>(json: D) -> Result<Self, D::Error> {
        struct ItemsVisitor<'a>(PhantomData<&'a ()>);
        impl<'a> Visitor<'a> for ItemsVisitor<'a> {
            type Value = ArrayItems<'a>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an array")
            }

            fn visit_seq<A: SeqAccess<'a>>(self, mut all: A) -> Result<ArrayItems<'a>, A::Error> {
                let mut items = Vec::new();
                while items.len() < MOST_PARTS
                    && let Some(item) = all.next_element::<&RawValue>()?
                {
                    items.push(item.get());
                }
                while all.next_element::<IgnoredAny>()?.is_some() {}
                Ok(ArrayItems(items))
            }
        }
        json.deserialize_seq(ItemsVisitor(PhantomData))
    }
}

/// The JSON texts of some members of an object. `null` counts as missing; of equal names the last counts.
pub(super) struct ObjectMembers<'a, const N: usize>(pub(super) [Option<&'a str>; N]);

impl<'a, const N: usize> ObjectMembers<'a, N> {
    pub(super) fn of(json: &'a str, names: [&str; N]) -> Self {
        struct MembersVisitor<'n, 'a, const N: usize>([&'n str; N], PhantomData<&'a ()>);
        impl<'a, const N: usize> Visitor<'a> for MembersVisitor<'_, 'a, N> {
            type Value = [Option<&'a str>; N];

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'a>>(self, mut members: A) -> Result<Self::Value, A::Error> {
                let mut found = [None; N];
                while let Some(MemberName(name)) = members.next_key()? {
                    match self.0.iter().position(|wanted| *wanted == name) {
                        Some(at) => {
                            let value = members.next_value::<&RawValue>()?.get();
                            found[at] = Some(value).filter(|value| *value != "null");
                        }
                        None => drop(members.next_value::<IgnoredAny>()?),
                    }
                }
                Ok(found)
            }
        }
        if !json.starts_with('{') {
            return Self([None; N]);
        }
        let mut deserializer = serde_json::Deserializer::from_str(json);
        let found = deserializer.deserialize_map(MembersVisitor(names, PhantomData));
        Self(found.unwrap_or([None; N]))
    }
}

/// A member's name; borrowed, where it holds no escapes.
#[derive(Deserialize)]
struct MemberName<'a>(#[serde(borrow)] Cow<'a, str>);
