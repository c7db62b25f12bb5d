use proptest::prelude::*;
use serde_json::{Value, json};

use super::{
    super::http::MAX_ANSWER,
    reader::{AnswerBytes, MAX_STREAM, StreamReader},
    *,
};
use crate::chat_answer::ChatAnswer;

/// The answer that arrives in these chunks of bytes.
fn streamed<'a>(chunks: impl IntoIterator<Item = &'a [u8]>) -> Result<ChatAnswer, String> {
    let mut reader = StreamReader::default();
    for chunk in chunks {
        reader.push(chunk);
    }
    reader.end();
    if let Some(error) = reader.answer.error {
        return Err(String::from_utf8(error).unwrap());
    }
    let body = match reader.bytes {
        AnswerBytes::Events(_) => reader.answer.parts.into_body(),
        AnswerBytes::Whole(body) | AnswerBytes::Blank(body) => String::from_utf8(body).unwrap(),
    };
    let body: Box<RawValue> = serde_json::from_str(&body).map_err(|error| error.to_string())?;
    Ok(ChatAnswer::read(&body))
}

fn plain(answer: &Value) -> ChatAnswer {
    ChatAnswer::read(&serde_json::value::to_raw_value(answer).unwrap())
}

/// How a provider writes its stream.
#[derive(Debug, Clone)]
struct StreamStyle {
    line_end: &'static str,
    prefix: &'static str,
    comments: bool,
    role_first: bool,
    is_done_told: bool,
    usage_apart: bool,
    escapes: bool,
    /// A member that differs from event to event.
    padding: bool,
}

fn style() -> impl Strategy<Value = StreamStyle> {
    let line_ends = prop::sample::select(vec!["\n", "\r\n", "\r"]);
    let prefixes = prop::sample::select(vec!["data: ", "data:"]);
    (line_ends, prefixes, any::<[bool; 6]>()).prop_map(|(line_end, prefix, flags)| {
        let [comments, role_first, is_done_told, usage_apart, escapes, padding] = flags;
        StreamStyle {
            line_end,
            prefix,
            comments,
            role_first,
            is_done_told,
            usage_apart,
            escapes,
            padding,
        }
    })
}

/// The pieces of a text as they stand between the quotes of JSON strings.
fn pieces(text: &str, cuts: &[prop::sample::Index], escapes: bool) -> Vec<String> {
    let units: Vec<String> = match escapes {
        true => text.encode_utf16().map(|unit| format!("\\u{unit:04x}")).collect(),
        false => text
            .chars()
            .map(|c| json!(c.to_string()).to_string().trim_matches('"').to_owned())
            .collect(),
    };
    // A quote or a backslash is escaped, so that trimming quotes leaves its backslash alone.
    let units: Vec<String> = units
        .into_iter()
        .map(|unit| if unit == "\\" { "\\\"".to_owned() } else { unit })
        .collect();
    let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(units.len() + 1)).collect();
    cuts.sort_unstable();
    let mut from = 0;
    let ends = cuts.into_iter().chain([units.len()]);
    ends.map(|end| units[std::mem::replace(&mut from, end)..end].concat())
        .collect()
}

fn stream(answer: &Value, style: &StreamStyle, cuts: &[prop::sample::Index]) -> String {
    let message = &answer["choices"][0]["message"];
    let mut events = Vec::new();
    let mut padding = 0_usize;
    let mut event = |delta: String, finish: &Value, usage: &Value| {
        padding += 1;
        let noise = if style.padding {
            format!(r#","obfuscation":"{}""#, "x".repeat(padding % 7))
        } else {
            String::new()
        };
        let model = &answer["model"];
        events.push(format!(
            r#"{{"id":"c","model":{model},"choices":[{{"index":0,"delta":{delta},"finish_reason":{finish}}}],"usage":{usage}{noise}}}"#
        ));
    };
    if style.role_first {
        event(
            r#"{"role":"assistant","content":""}"#.to_owned(),
            &Value::Null,
            &Value::Null,
        );
    }
    for member in ["refusal", "content"] {
        for piece in pieces(message[member].as_str().unwrap_or_default(), cuts, style.escapes) {
            event(format!(r#"{{"{member}":"{piece}"}}"#), &Value::Null, &Value::Null);
        }
    }
    let usage = if style.usage_apart {
        &Value::Null
    } else {
        &answer["usage"]
    };
    event("{}".to_owned(), &answer["choices"][0]["finish_reason"], usage);
    if style.usage_apart {
        events.push(json!({ "choices": [], "usage": answer["usage"] }).to_string());
    }
    if style.is_done_told {
        events.push("[DONE]".to_owned());
    }
    let end = style.line_end;
    let comment = if style.comments {
        format!(": waiting{end}{end}")
    } else {
        String::new()
    };
    events
        .iter()
        .map(|event| format!("{comment}{}{event}{end}{end}", style.prefix))
        .collect()
}

fn content() -> impl Strategy<Value = String> {
    let card = r#"\{"front":"[a-zé ]{1,9}","back":"\PC{0,12}","example":"[a-z \\"'é😀]{0,20}"\}"#;
    prop_oneof![
        prop::collection::vec(card, 0..6)
            .prop_map(|cards| format!("{{\"flashcards\":[{}]}}", cards.join(","))),
        r"(?s).{0,80}",
        Just("data: [DONE]\n\n{\"error\":{\"message\":\"no\"}}\u{0}\u{1f600}\\\"".to_owned()),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// However an answer is cut into events, and these into chunks of bytes: it is the answer that comes whole.
    #[test]
    fn a_streamed_answer_is_the_whole_one(
        content in content(),
        refusal in prop::option::of("[a-z ]{0,20}"),
        finish in prop::sample::select(vec![json!("stop"), json!("length"), json!("content_filter"), Value::Null]),
        style in style(),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..24),
        byte_cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..24),
    ) {
        let answer = json!({
            "model": "m-1",
            "choices": [{ "index": 0, "message": { "content": content, "refusal": refusal }, "finish_reason": finish }],
            "usage": { "prompt_tokens": 12, "completion_tokens": 34, "total_tokens": 46 },
        });
        let stream = stream(&answer, &style, &cuts);
        let bytes = stream.as_bytes();
        let mut ends: Vec<usize> = byte_cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
        ends.sort_unstable();
        ends.push(bytes.len());
        let mut from = 0;
        let chunks: Vec<&[u8]> = ends.iter().map(|end| &bytes[std::mem::replace(&mut from, *end)..*end]).collect();
        prop_assert_eq!(streamed(chunks).unwrap(), plain(&answer), "{}", stream);
        prop_assert_eq!(streamed(bytes.chunks(1)).unwrap(), plain(&answer), "{}", stream);
    }
}

#[test]
fn an_answer_in_one_piece_is_read_although_a_stream_was_asked_for() {
    let answer = json!({
        "model": "m", "choices": [{ "message": { "content": "{}" }, "finish_reason": "stop" }],
        "usage": { "prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2 },
    });
    for body in [
        answer.to_string(),
        format!("\n {answer:#}\n"),
        format!("data: {answer}\n\n"),
        json!([answer]).to_string(),
    ] {
        assert_eq!(
            streamed(body.as_bytes().chunks(7)).unwrap(),
            plain(&answer),
            "{body}"
        );
    }
    // Lines of JSON.
    let lines =
        "{\"choices\":[{\"delta\":{\"content\":\"{\"}}]}\n{\"choices\":[{\"delta\":{\"content\":\"}\"}}]}\n";
    assert_eq!(streamed([lines.as_bytes()]).unwrap().text, "{}");
}

#[test]
fn an_error_ends_the_stream() {
    let stream = "data: {\"choices\":[{\"delta\":{\"content\":\"{\"}}]}\n\nevent: error\ndata: {\"error\":{\"message\":\"Overloaded\",\"code\":529}}\n\ndata: {\"choices\":[{\"delta\":{\"content\":\"}\"}}]}\n\n";
    let error = streamed(stream.as_bytes().chunks(5)).unwrap_err();
    assert!(error.contains("Overloaded"), "{error}");
    // An empty member of that name is none, and neither is a ping.
    let stream = "data: {\"type\":\"ping\"}\n\ndata: {\"error\":{},\"choices\":[{\"delta\":{\"content\":\"{}\"}}]}\n\n";
    assert_eq!(streamed([stream.as_bytes()]).unwrap().text, "{}");
}

#[test]
fn a_stream_is_bounded() {
    let mut reader = StreamReader::default();
    reader.push(b"data: ");
    let endless = vec![b'x'; 1 << 20];
    for _ in 0..MAX_ANSWER >> 20 {
        reader.push(&endless);
    }
    assert!(reader.is_too_long(), "a line without an end");
    let mut reader = StreamReader::default();
    reader.push(b": ");
    reader.length = MAX_STREAM;
    reader.push(b"\n");
    assert!(reader.is_too_long(), "comments without an end");
}
