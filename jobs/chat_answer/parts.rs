//! Puts a streamed chat completion together, in the form that a provider sends without a stream. So one reader serves both.
//!
//! Texts stay in the escaped form of their JSON strings. A part is appended as it came, without decoding and encoding, and
//! half of a surrogate pair meets its other half in the next part.

use std::fmt::Write as _;

use super::{Content, ObjectMembers, Written, items_or_itself, number, string};

mod frame;
#[cfg(test)]
mod tests;

use frame::EventFrame;

/// Choices of an answer that are kept. Requests ask for one.
const MOST_CHOICES: usize = 4;
/// Tool calls of a choice that are kept.
const MOST_CALLS: usize = 16;
/// Longest usage, name of a model and finish reason that is kept, bytes.
const LONGEST_DETAIL: usize = 16 * 1024;

/// The meaning of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum EventMeaning {
    /// A part of the answer, or an event without meaning for it.
    Part,
    /// The answer is whole.
    Done,
    /// The event may report an error.
    Error,
}

/// An answer of which some parts have arrived.
#[derive(Debug, Default)]
pub(crate) struct AnswerParts {
    choices: Vec<ChoiceParts>,
    /// The model, the tier and the usage are JSON, as the provider wrote it.
    model: Option<String>,
    tier: Option<String>,
    usage: Option<String>,
    /// True if the counts came in an event of their own, which follows the last part. Some providers count in each event.
    is_counted: bool,
    /// Bytes of the texts.
    size: usize,
    /// Bytes of reasoning that came apart from the answer.
    reasoning: usize,
    frame: Option<EventFrame>,
}

#[derive(Debug, Default)]
struct ChoiceParts {
    text: String,
    refusal: String,
    /// The arguments of its tool calls.
    calls: Vec<CallParts>,
    finish: Option<String>,
}

#[derive(Debug, Default)]
struct CallParts {
    name: String,
    arguments: String,
}

impl AnswerParts {
    /// Takes the data of one event.
    pub(crate) fn push(&mut self, event: &str) -> EventMeaning {
        if let Some(frame) = &self.frame
            && let Some(text) = frame.text_of(event)
            && let Some(choice) = self.choices.first_mut()
        {
            choice.text.push_str(text);
            self.size += text.len();
            return EventMeaning::Part;
        }
        let event = event.trim();
        if event == "[DONE]" {
            return EventMeaning::Done;
        }
        self.read(event)
    }

    /// Takes the events at the front of a stream's bytes that differ from an earlier one in their text alone, and returns
    /// their length. The bytes begin with a line.
    pub(crate) fn take_framed(&mut self, bytes: &[u8]) -> usize {
        let (Some(frame), Some(choice)) = (&self.frame, self.choices.first_mut()) else {
            return 0;
        };
        let (mut texts, mut rest) = (Vec::new(), bytes);
        // A text that is not UTF-8 is left to the reader of lines.
        while let Some((text, behind)) = frame.split_lines(rest)
            && (text.is_ascii() || std::str::from_utf8(text).is_ok())
        {
            texts.extend_from_slice(text);
            rest = behind;
        }
        // They are valid one by one, and so they are together.
        let texts = std::str::from_utf8(&texts).unwrap_or_default();
        choice.text.push_str(texts);
        self.size += texts.len();
        bytes.len() - rest.len()
    }

    fn read(&mut self, event: &str) -> EventMeaning {
        // Some gateways put each event into an array.
        let object = match event.starts_with('[') {
            true => items_or_itself(event).first().copied().unwrap_or_default(),
            false => event,
        };
        let [choices, usage, groq, model, tier, error] = ObjectMembers::of(
            object,
            ["choices", "usage", "x_groq", "model", "service_tier", "error"],
        )
        .0;
        let kept = |place: &mut Option<String>, found: Option<&str>| {
            // Azure names no model in its remarks about filters, and some gateways count nothing in their last event.
            let found = found.filter(|found| !matches!(*found, r#""""# | "{}"));
            if let Some(found) = found.filter(|found| found.len() <= LONGEST_DETAIL) {
                *place = Some(found.to_owned());
            }
        };
        kept(&mut self.model, model);
        kept(&mut self.tier, tier);
        let counted = usage.or_else(|| ObjectMembers::of(groq?, ["usage"]).0[0]);
        kept(&mut self.usage, counted);
        let items = choices.map(items_or_itself).unwrap_or_default();
        self.is_counted |= counted.is_some() && items.is_empty();
        let mut reports_error = error.is_some() || (choices.is_none() && counted.is_none());
        let mut plain = None;
        for choice in &items {
            let (text, has_error) = self.take_choice(choice);
            plain = text;
            reports_error |= has_error;
        }
        // Only an event that is an object has a frame: the text of an array's item does not begin in the event itself.
        self.frame = plain
            .filter(|_| {
                items.len() == 1 && counted.is_none() && !reports_error && object.len() == event.len()
            })
            .and_then(|text| EventFrame::around(event, text))
            .or_else(|| self.frame.take());
        match reports_error {
            true => EventMeaning::Error,
            false => EventMeaning::Part,
        }
    }

    /// Takes a part of a choice. Returns its text if the part holds nothing else, and whether it may report an error.
    fn take_choice<'e>(&mut self, choice: &'e str) -> (Option<&'e str>, bool) {
        let [index, delta, message, legacy, finish, error] = ObjectMembers::of(
            choice,
            ["index", "delta", "message", "text", "finish_reason", "error"],
        )
        .0;
        let index = index.and_then(number).unwrap_or(0);
        let Some(index) = usize::try_from(index).ok().filter(|index| *index < MOST_CHOICES) else {
            return (None, error.is_some());
        };
        if self.choices.len() <= index {
            self.choices.resize_with(index + 1, ChoiceParts::default);
        }
        let parts = &mut self.choices[index];
        if let Some(finish) = finish.filter(|finish| finish.len() <= LONGEST_DETAIL) {
            parts.finish = Some(finish.to_owned());
        }
        let [content, refusal, calls, function, thought, thinking] = ObjectMembers::of(
            delta.unwrap_or_default(),
            [
                "content",
                "refusal",
                "tool_calls",
                "function_call",
                "reasoning_content",
                "reasoning",
            ],
        )
        .0;
        let before = parts.size();
        let written = content.map(escaped_text).filter(|text| !text.is_empty());
        // Together repeats the part in the place of the old form of completions.
        if let Some(written) = written.or_else(|| legacy.map(escaped_text)) {
            parts.text.push_str(&written);
        }
        if let Some(refusal) = refusal {
            parts.refusal.push_str(&escaped_text(refusal));
        }
        for (position, call) in calls.map(items_or_itself).unwrap_or_default().iter().enumerate() {
            let [index, function] = ObjectMembers::of(call, ["index", "function"]).0;
            let index = index
                .and_then(number)
                .and_then(|index| usize::try_from(index).ok());
            parts.take_call(index.unwrap_or(position), function);
        }
        if function.is_some() {
            parts.take_call(0, function);
        }
        // Some gateways send the whole message at the end, beside its parts or in place of them.
        if let Some(message) = message.filter(|_| delta.is_none() && parts.is_blank()) {
            let written = Written::of([None; 3], message);
            parts.text = inside_of_string(&written.text);
            parts.refusal = inside_of_string(&written.refusal);
        }
        self.size += parts.size() - before;
        // Some gateways write it under both names.
        let reasoning = [thought, thinking].into_iter().flatten();
        let reasoning = reasoning
            .map(|text| text.len().saturating_sub(2))
            .max()
            .unwrap_or(0);
        self.reasoning += reasoning;
        let is_plain = index == 0
            && finish.is_none()
            && error.is_none()
            && reasoning == 0
            && [refusal, calls, function, message, legacy]
                .iter()
                .all(Option::is_none);
        let text = content.filter(|_| is_plain).and_then(raw_string);
        (text, error.is_some())
    }

    /// Bytes of the texts that have arrived, in their escaped form.
    pub(crate) const fn size(&self) -> usize {
        self.size
    }

    /// Bytes of reasoning that have arrived apart from the texts.
    pub(crate) const fn reasoning(&self) -> usize {
        self.reasoning
    }

    /// Returns true if the model has begun to answer or to reason.
    pub(crate) const fn has_begun(&self) -> bool {
        self.size > 0 || self.reasoning > 0
    }

    /// Returns true if the provider has said that the answer is over.
    pub(crate) fn is_finished(&self) -> bool {
        self.is_counted || self.choices.iter().any(|choice| choice.finish.is_some())
    }

    /// Returns true if the provider has ended the answer because of an error of its own, and reports no other.
    pub(crate) fn has_failed(&self) -> bool {
        let mut reasons = self.choices.iter().filter_map(|choice| choice.finish.as_deref());
        reasons.any(|reason| reason == r#""error""#)
    }

    /// Returns true if the text ends like a whole JSON text, perhaps in a fence.
    pub(crate) fn ends_like_json(&self) -> bool {
        let text = self.text().trim_end_matches(['n', 'r', 't', '\\', ' ']);
        text.ends_with(['}', ']', '`'])
    }

    /// The text of the first choice, in its escaped form.
    pub(crate) fn text(&self) -> &str {
        self.choices.first().map_or("", |choice| &choice.text)
    }

    /// The answer, in the form of one that was not streamed.
    pub(crate) fn into_body(self) -> String {
        let mut body = String::with_capacity(self.size + 512);
        body.push_str(r#"{"object":"chat.completion""#);
        for (name, value) in [("model", &self.model), ("service_tier", &self.tier)] {
            if let Some(value) = value {
                push(&mut body, format_args!(r#","{name}":{value}"#));
            }
        }
        body.push_str(r#","choices":["#);
        for (index, choice) in self.choices.iter().enumerate() {
            let separator = if index == 0 { "" } else { "," };
            push(
                &mut body,
                format_args!(r#"{separator}{{"index":{index},"message":{{"role":"assistant","content":"#),
            );
            choice.write_message(&mut body);
            let finish = choice.finish.as_deref().unwrap_or("null");
            push(&mut body, format_args!(r#"}},"finish_reason":{finish}}}"#));
        }
        body.push(']');
        if let Some(usage) = &self.usage {
            push(&mut body, format_args!(r#","usage":{usage}"#));
        }
        body.push('}');
        body
    }
}

impl ChoiceParts {
    fn size(&self) -> usize {
        let calls = self
            .calls
            .iter()
            .map(|call| call.name.len() + call.arguments.len());
        self.text.len() + self.refusal.len() + calls.sum::<usize>()
    }

    fn is_blank(&self) -> bool {
        self.text.trim().is_empty() && self.calls.is_empty() && self.refusal.is_empty()
    }

    fn take_call(&mut self, index: usize, function: Option<&str>) {
        if index >= MOST_CALLS {
            return;
        }
        if self.calls.len() <= index {
            self.calls.resize_with(index + 1, CallParts::default);
        }
        let [name, arguments] = ObjectMembers::of(function.unwrap_or_default(), ["name", "arguments"]).0;
        let call = &mut self.calls[index];
        if let Some(name) = name {
            call.name = escaped_text(name);
        }
        if let Some(arguments) = arguments {
            call.arguments.push_str(&escaped_text(arguments));
        }
    }

    /// Writes the message's members behind `"content":`.
    fn write_message(&self, body: &mut String) {
        match self.text.is_empty() {
            true => body.push_str("null"),
            false => push(body, format_args!(r#""{}""#, self.text)),
        }
        if !self.refusal.is_empty() {
            push(body, format_args!(r#","refusal":"{}""#, self.refusal));
        }
        if self.calls.is_empty() {
            return;
        }
        body.push_str(r#","tool_calls":["#);
        for (index, CallParts { name, arguments }) in self.calls.iter().enumerate() {
            let separator = if index == 0 { "" } else { "," };
            push(
                body,
                format_args!(
                    r#"{separator}{{"type":"function","function":{{"name":"{name}","arguments":"{arguments}"}}}}"#
                ),
            );
        }
        body.push(']');
    }
}

fn push(body: &mut String, text: std::fmt::Arguments<'_>) {
    // A string takes any text.
    let _ = body.write_fmt(text);
}

/// The part of a JSON string between its quotes.
fn raw_string(json: &str) -> Option<&str> {
    json.strip_prefix('"')?.strip_suffix('"')
}

/// The text of a content, a refusal or arguments, in its escaped form.
fn escaped_text(json: &str) -> String {
    match raw_string(json) {
        Some(text) => text.to_owned(),
        // An empty list of parts is no text.
        None if json.len() < 3 => String::new(),
        None => inside_of_string(&Content::of(json, 0).text),
    }
}

/// A text as it stands between the quotes of a JSON string.
fn inside_of_string(text: &str) -> String {
    let json = serde_json::to_string(text).unwrap_or_default();
    raw_string(&json).unwrap_or_default().to_owned()
}

/// Decodes the part of a JSON string between its quotes.
pub(crate) fn decoded(text: &str) -> Option<String> {
    string(&crate::text::without_lone_surrogates(&format!("\"{text}\"")))
}
