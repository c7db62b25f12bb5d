//! Looks into JSON that stays text. A provider's answer is mostly one long text or a list of thousands of numbers: a
//! tree of it costs more than the few values that are wanted, and one of a hostile answer many times its length.

use std::{borrow::Cow, fmt};

use serde::{
    Deserialize, Deserializer,
    de::{DeserializeSeed, IgnoredAny, MapAccess, SeqAccess, Visitor},
};
use serde_json::{Value, value::RawValue};

use crate::{Failure, Provider, text::without_lone_surrogates};

#[cfg(test)]
mod tests;

/// A value that was picked.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum PickedValue<'a> {
    Text(Cow<'a, str>),
    Count(u64),
}

impl PickedValue<'_> {
    /// The text, where it is one.
    pub(crate) fn text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            Self::Count(_) => None,
        }
    }

    /// The text, owned, where it is one.
    pub(crate) fn into_text(self) -> Option<String> {
        match self {
            Self::Text(text) => Some(text.into_owned()),
            Self::Count(_) => None,
        }
    }

    /// The whole number from 0, where it is one.
    pub(crate) fn count(&self) -> Option<u64> {
        match self {
            Self::Count(count) => Some(*count),
            Self::Text(_) => None,
        }
    }
}

/// The texts and counts at these places, each a JSON pointer without escapes, found in one pass.
///
/// As lenient as the index of a tree: `None` where the place is missing or holds another type. Of members with the same
/// name the last counts.
pub(crate) fn pick<'a, const N: usize>(json: &'a str, places: [&str; N]) -> [Option<PickedValue<'a>>; N] {
    let mut found = [const { None }; N];
    let root = PathPart {
        wanted: places.into_iter().zip(0..).collect(),
        found: &mut found,
    };
    let walked = root.deserialize(&mut serde_json::Deserializer::from_str(json));
    // Fails at what is JSON and no value, such as half a surrogate pair: then nothing is believed.
    if walked.is_ok() {
        found
    } else {
        [const { None }; N]
    }
}

/// Values of a tree at most. Each takes some 70 bytes, whereas two bytes of an answer can name one. The text of fifty
/// pages has half as many.
const MOST_VALUES: usize = 1_000_000;

/// All of an answer as a tree, for one of which most is wanted.
///
/// # Errors
/// Transient, for what is JSON and no tree: nested too deeply, with too many values, or with a number that is too
/// large.
pub(crate) fn tree(provider: Provider, answer: &RawValue) -> Result<Value, Failure> {
    let begins_value = |byte: &&u8| matches!(byte, b',' | b'[' | b'{');
    if answer.get().as_bytes().iter().filter(begins_value).count() > MOST_VALUES {
        let message = format!("{provider}: unusable answer: it has more than {MOST_VALUES} values");
        return Err(Failure::transient(message).by(provider));
    }
    serde_json::from_str(&without_lone_surrogates(answer.get())).map_err(|e| {
        Failure::transient(format!("{provider}: unusable answer: it cannot be read"))
            .by(provider)
            .caused_by(e)
    })
}

/// A value on the way to those that are wanted, or one of them.
struct PathPart<'s, 'a> {
    /// The rest of the way to each from here, and its place in `found`.
    wanted: Vec<(&'s str, usize)>,
    found: &'s mut [Option<PickedValue<'a>>],
}

impl<'s, 'a> PathPart<'s, 'a> {
    /// The member or item whose name or index `pass` takes from the beginning of a way.
    fn below(&mut self, pass: impl Fn(&'s str) -> Option<&'s str>) -> PathPart<'_, 'a> {
        let step = |(way, place): &(&'s str, usize)| {
            let rest = pass(way.strip_prefix('/')?)?;
            (rest.is_empty() || rest.starts_with('/')).then_some((rest, *place))
        };
        PathPart {
            wanted: self.wanted.iter().filter_map(step).collect(),
            found: self.found,
        }
    }

    /// Keeps the value, where this is one that is wanted.
    fn keep(self, value: PickedValue<'a>) {
        if let Some((_, place)) = self.wanted.iter().find(|(way, _)| way.is_empty()) {
            self.found[*place] = Some(value);
        }
    }
}

impl<'a> DeserializeSeed<'a> for PathPart<'_, 'a> {
    type Value = ();

    fn deserialize<D: Deserializer<'a>>(self, json: D) -> Result<(), D::Error> {
        if self.wanted.is_empty() {
            return IgnoredAny::deserialize(json).map(drop);
        }
        // An earlier member of the same name counts no more.
        self.wanted
            .iter()
            .for_each(|(_, place)| self.found[*place] = None);
        json.deserialize_any(self)
    }
}

/// The name of a member; borrowed, where it holds no escapes.
#[derive(Deserialize)]
struct MemberName<'a>(#[serde(borrow)] Cow<'a, str>);

impl<'a> Visitor<'a> for PathPart<'_, 'a> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_map<A: MapAccess<'a>>(mut self, mut members: A) -> Result<(), A::Error> {
        while let Some(MemberName(name)) = members.next_key()? {
            members.next_value_seed(
                self.below(|way| way.strip_prefix(&*name).filter(|_| !name.contains('/'))),
            )?;
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'a>>(mut self, mut items: A) -> Result<(), A::Error> {
        let mut index = 0;
        loop {
            let item = self.below(|way| {
                let (number, rest) = way.split_at(way.find('/').unwrap_or(way.len()));
                (number.parse() == Ok(index)).then_some(rest)
            });
            if items.next_element_seed(item)?.is_none() {
                return Ok(());
            }
            index += 1_usize;
        }
    }

    fn visit_borrowed_str<E>(self, text: &'a str) -> Result<(), E> {
        self.keep(PickedValue::Text(text.into()));
        Ok(())
    }

    fn visit_str<E>(self, text: &str) -> Result<(), E> {
        self.keep(PickedValue::Text(text.to_owned().into()));
        Ok(())
    }

    fn visit_u64<E>(self, count: u64) -> Result<(), E> {
        self.keep(PickedValue::Count(count));
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }
}
