//! Bodies of usage events: a JSON text with `{{field}}` where a field of the event stands.

use serde_json::{Value, json};

use super::event::Event;

/// Longest template, bytes: a body has to stay small.
const LONGEST: usize = 16 * 1024;

/// A body with places for the fields of an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template(Vec<Part>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Text(String),
    Field(Field),
}

macro_rules! fields {
    ($($field:ident $name:literal;)*) => {
        /// A field of an event, as templates and the usual body name it.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        enum Field {
            $($field,)*
        }

        impl Field {
            const ALL: &[Self] = &[$(Self::$field),*];

            const fn name(self) -> &'static str {
                match self {
                    $(Self::$field => $name,)*
                }
            }
        }
    };
}

fields! {
    Key "key";
    Call "call";
    Kind "kind";
    At "at";
    Provider "provider";
    Model "model";
    Type "type";
    Student "student";
    Usd "usd";
    NanoUsd "nanoUsd";
    PromptTokens "promptTokens";
    CachedTokens "cachedTokens";
    CompletionTokens "completionTokens";
    ReasoningTokens "reasoningTokens";
}

impl Field {
    fn of(self, event: &Event) -> Value {
        match self {
            Self::Key => json!(event.key()),
            Self::Call => json!(event.call),
            Self::Kind => json!(event.kind),
            Self::At => json!(event.at()),
            Self::Provider => json!(event.provider),
            Self::Model => json!(event.model),
            Self::Type => json!(event.job_type),
            Self::Student => json!(event.student),
            Self::Usd => json!(event.amount),
            Self::NanoUsd => json!(event.amount.nanos()),
            Self::PromptTokens => json!(event.prompt_tokens),
            Self::CachedTokens => json!(event.cached_tokens),
            Self::CompletionTokens => json!(event.completion_tokens),
            Self::ReasoningTokens => json!(event.reasoning_tokens),
        }
    }
}

impl Template {
    /// Reads a template, and tries it.
    ///
    /// # Errors
    /// The form that it has to have.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.len() > LONGEST {
            return Err(format!("at most {LONGEST} bytes"));
        }
        let (mut parts, mut rest) = (Vec::new(), text);
        while let Some((before, behind)) = rest.split_once("{{") {
            let (name, after) = behind
                .split_once("}}")
                .ok_or_else(|| "each {{ needs its }}".to_owned())?;
            let field = Field::ALL.iter().find(|field| field.name() == name.trim());
            let field = field.copied().ok_or_else(|| {
                let names: Vec<&str> = Field::ALL.iter().map(|field| field.name()).collect();
                format!("a field between {{{{ and }}}} is one of {}", names.join(", "))
            })?;
            parts.extend([Part::Text(before.to_owned()), Part::Field(field)]);
            rest = after;
        }
        parts.push(Part::Text(rest.to_owned()));
        let template = Self(parts);
        for sample in [Event::default(), Event::sample()] {
            serde_json::from_str::<Value>(&template.fill(&sample)).map_err(|error| {
                format!(
                    "no JSON once its fields are filled in ({error}); a text such as {{{{student}}}} stands in quotes"
                )
            })?;
        }
        Ok(template)
    }

    /// True if the body names the student: an event without one then makes no sense to its receiver.
    pub fn needs_student(&self) -> bool {
        self.0.contains(&Part::Field(Field::Student))
    }

    /// The body for an event. Texts are escaped for the quotes around them.
    pub fn fill(&self, event: &Event) -> String {
        let mut body = String::new();
        for part in &self.0 {
            match part {
                Part::Text(text) => body.push_str(text),
                Part::Field(field) => {
                    let text = field.of(event).to_string();
                    let inner = text.strip_prefix('"').and_then(|text| text.strip_suffix('"'));
                    body.push_str(inner.unwrap_or(&text));
                }
            }
        }
        body
    }
}

/// The body without a template: all fields.
pub(super) fn whole(event: &Event) -> String {
    let fields = Field::ALL
        .iter()
        .map(|field| (field.name().to_owned(), field.of(event)));
    Value::Object(fields.collect()).to_string()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const INCREMENT: &str = r#"{"user_id": "{{student}}", "input_count": {{promptTokens}}, "output_count": {{ completionTokens }}}"#;

    #[test]
    fn a_template_calls_the_procedure_of_the_app() {
        let template = Template::parse(INCREMENT).unwrap();
        let event = Event {
            student: "a\"b\\\n".to_owned(),
            prompt_tokens: 12,
            completion_tokens: 7,
            ..Event::default()
        };
        let body: Value = serde_json::from_str(&template.fill(&event)).unwrap();
        let expected = json!({"user_id": "a\"b\\\n", "input_count": 12, "output_count": 7});
        assert_eq!(body, expected);
        assert!(template.needs_student());
    }

    #[test]
    fn what_can_yield_no_json_is_refused() {
        for (text, fault) in [
            (r#"{"user_id": {{student}}}"#, "in quotes"),
            (r#"{"n": {{promptTokens}}"#, "no JSON"),
            (r#"{"n": {{tokens}}}"#, "is one of key, call"),
            (r#"{"n": "{{student"}"#, "needs its }}"),
            ("", "no JSON"),
            (&" ".repeat(LONGEST + 1), "at most"),
        ] {
            let error = Template::parse(text).unwrap_err();
            assert!(error.contains(fault), "{text:.60}: {error}");
        }
    }

    #[test]
    fn the_usual_body_has_all_fields() {
        let body: Value = serde_json::from_str(&whole(&Event::sample())).unwrap();
        for field in Field::ALL {
            assert!(!body[field.name()].is_null(), "{}", field.name());
        }
    }

    proptest! {
        #[test]
        fn no_text_breaks_out_of_its_quotes(student in ".*", model in ".*") {
            let template = Template::parse(r#"{"a": "{{student}}", "b": "<{{model}}>"}"#).unwrap();
            let event = Event { student: student.clone(), model: model.clone(), ..Event::default() };
            let body: Value = serde_json::from_str(&template.fill(&event)).unwrap();
            prop_assert_eq!(body, json!({"a": student, "b": format!("<{model}>")}));
        }
    }
}
