//! The fields of a card, by the names that models give them.

use std::borrow::Cow;

/// A card as the model wrote it, not checked.
#[derive(Debug, Clone, Default, PartialEq)]
pub(in super::super) struct RawCard {
    pub(in super::super) front: String,
    back: String,
    translation: String,
    definition: String,
    pub(in super::super) topic: String,
    pub(in super::super) difficulty: String,
    pub(in super::super) example: String,
    pub(in super::super) pronunciation: String,
}

impl RawCard {
    /// The other side. Some models write a translation and a definition: the deck needs one of them.
    pub(in super::super) fn back(&self, is_translation: bool) -> &str {
        let sides = match is_translation {
            true => [&self.back, &self.translation, &self.definition],
            false => [&self.back, &self.definition, &self.translation],
        };
        let written = sides.into_iter().find(|side| !side.trim().is_empty());
        written.map_or("", String::as_str)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CardField {
    Front,
    Back,
    Translation,
    Definition,
    Topic,
    Difficulty,
    Example,
    Pronunciation,
    /// The text of an object that stands in place of a text: `"front": {"text": …, "language": …}`.
    Text,
}

const FIELDS: usize = 9;

/// A key that names a field, by its own name or by a synonym.
#[derive(Debug, Clone, Copy)]
pub(super) struct FieldMatch {
    pub(super) field: CardField,
    pub(super) is_exact: bool,
}

impl FieldMatch {
    pub(super) fn of(key: &str) -> Option<Self> {
        let mut name = [0u8; 16];
        let mut length = 0;
        for c in key.chars().filter(|c| !matches!(c, ' ' | '_' | '-')) {
            *name.get_mut(length)? = u8::try_from(c).ok()?.to_ascii_lowercase();
            length += 1;
        }
        let (field, is_exact) = match &name[..length] {
            b"front" => (CardField::Front, true),
            b"term" | b"word" | b"phrase" | b"expression" | b"vocabulary" | b"concept" | b"question"
            | b"q" | b"fronttext" | b"frontside" | b"frente" | b"anverso" | b"recto" => {
                (CardField::Front, false)
            }
            b"back" => (CardField::Back, true),
            b"meaning" | b"answer" | b"a" | b"backtext" | b"backside" | b"reverso" | b"dorso" | b"verso" => {
                (CardField::Back, false)
            }
            b"translation" => (CardField::Translation, true),
            b"translated" | b"translatedterm" => (CardField::Translation, false),
            b"definition" => (CardField::Definition, true),
            b"explanation" | b"description" => (CardField::Definition, false),
            b"topic" => (CardField::Topic, true),
            b"category" => (CardField::Topic, false),
            b"difficulty" => (CardField::Difficulty, true),
            b"level" | b"difficultylevel" => (CardField::Difficulty, false),
            b"example" => (CardField::Example, true),
            b"examplesentence" | b"sentence" | b"examples" | b"exampletext" => (CardField::Example, false),
            b"pronunciation" => (CardField::Pronunciation, true),
            b"ipa" | b"phonetic" | b"phonetics" => (CardField::Pronunciation, false),
            b"text" | b"value" | b"content" => (CardField::Text, false),
            _ => return None,
        };
        Some(Self { field, is_exact })
    }
}

/// A card with a note for each field whether its own name or a synonym set it.
#[derive(Default)]
pub(super) struct PartialCard {
    fields: [Option<(String, bool)>; FIELDS],
}

impl PartialCard {
    pub(super) fn set(&mut self, key: FieldMatch, text: Cow<'_, str>) {
        let slot = &mut self.fields[key.field as usize];
        // A synonym does not replace the field itself: {"word": …, "front": …}.
        if !matches!(slot, Some((_, true))) || key.is_exact {
            *slot = Some((text.into_owned(), key.is_exact));
        }
    }

    /// Adds one of several texts of a field. Of several examples the first is enough.
    pub(super) fn append(&mut self, key: FieldMatch, text: &str) {
        match &mut self.fields[key.field as usize] {
            Some((already, _)) if !already.is_empty() => {
                if key.field != CardField::Example {
                    already.push_str(", ");
                    already.push_str(text);
                }
            }
            slot => *slot = Some((text.to_owned(), key.is_exact)),
        }
    }

    /// Takes what an object says that stands in place of this field's text.
    pub(super) fn set_from(&mut self, key: FieldMatch, mut inner: Self) {
        let field = key.field;
        let mut parts = vec![(field, field), (CardField::Text, field)];
        if field == CardField::Back {
            parts.extend([CardField::Translation, CardField::Definition].map(|side| (side, side)));
        }
        for (from, to) in parts {
            let slot = &mut self.fields[to as usize];
            if slot.is_none() {
                *slot = inner.fields[from as usize].take();
            }
        }
    }

    pub(super) fn text(&self, field: CardField) -> Option<&str> {
        self.fields[field as usize]
            .as_ref()
            .map(|(text, _)| text.as_str())
    }

    /// Returns true if the field's own name set it.
    pub(super) fn is_exact(&self, field: CardField) -> bool {
        matches!(self.fields[field as usize], Some((_, true)))
    }

    pub(super) fn has_other_side(&self) -> bool {
        let sides = [CardField::Back, CardField::Translation, CardField::Definition];
        sides.into_iter().any(|side| self.text(side).is_some())
    }

    /// The card, if it has a front and another side.
    pub(super) fn finish(self) -> Option<RawCard> {
        if !self.has_other_side() {
            return None;
        }
        let [
            front,
            back,
            translation,
            definition,
            topic,
            difficulty,
            example,
            pronunciation,
            _,
        ] = self.fields;
        let text = |field: Option<(String, bool)>| field.map(|(text, _)| text).unwrap_or_default();
        Some(RawCard {
            front: front?.0,
            back: text(back),
            translation: text(translation),
            definition: text(definition),
            topic: text(topic),
            difficulty: text(difficulty),
            example: text(example),
            pronunciation: text(pronunciation),
        })
    }
}
