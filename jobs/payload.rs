//! Common rules of the payloads: an error names the refused field, and the reason. A blank optional field counts as
//! absent, because producers send `""` and `null` for empty fields of a form.

use std::borrow::Cow;

use serde::{Deserialize, Deserializer};

use crate::{
    Failure,
    media::{MediaSource, is_address, is_bare_base64, is_content},
    text::{is_blank, is_invisible, without_controls, without_lone_surrogates},
};

mod medium;
#[cfg(test)]
mod tests;

pub(crate) use medium::medium;

/// Longest text of a decoding error, characters.
const LONGEST_ERROR: usize = 200;

/// A payload's JSON as text that Rust can read: without a byte order mark, and with U+FFFD in place of each lone
/// surrogate. JavaScript writes those (`\ud83d`) when it cuts a text inside of an emoji. UTF-16, which some shells
/// write to files, is read too.
///
/// # Errors
/// [`FailureClass::Permanent`](crate::FailureClass::Permanent) for bytes that are neither.
pub fn payload_text(json: &[u8]) -> Result<Cow<'_, str>, Failure> {
    if let Some(text) = utf16(json) {
        return Ok(Cow::Owned(without_lone_surrogates(&text).into_owned()));
    }
    let json = json.strip_prefix(b"\xef\xbb\xbf").unwrap_or(json);
    match std::str::from_utf8(json) {
        Ok(text) => Ok(without_lone_surrogates(text)),
        Err(error) => Err(Failure::permanent(format!(
            "payload is not JSON: it is not UTF-8 (at its byte {})",
            error.valid_up_to()
        ))),
    }
}

/// The text of UTF-16; `None` for anything else. JSON begins with an ASCII character, and holds no NUL.
fn utf16(json: &[u8]) -> Option<String> {
    let is_little = match json.get(..2)? {
        [0xff, 0xfe] => true,
        [0xfe, 0xff] => false,
        [first, 0] if *first != 0 => true,
        [0, second] if *second != 0 => false,
        _ => return None,
    };
    let (units, []) = json.as_chunks::<2>() else {
        return None;
    };
    let units = units.iter().map(|unit| match is_little {
        true => u16::from_le_bytes(*unit),
        false => u16::from_be_bytes(*unit),
    });
    let text: String = char::decode_utf16(units)
        .map(|c| c.unwrap_or(char::REPLACEMENT_CHARACTER))
        .collect();
    Some(text.trim_start_matches('\u{feff}').to_owned())
}

/// Reads a text that goes to a provider or into a result, without its control characters.
pub(crate) fn prose<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    String::deserialize(deserializer).map(without_controls)
}

/// The same for an optional field.
pub(crate) fn optional_prose<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    Ok(Option::<String>::deserialize(deserializer)?.map(without_controls))
}

/// What serde says of JSON that it cannot decode, without the value that it found: that can be a signed URL, a whole
/// file, or what a model wrote. Names of fields stay, they stand in backticks.
pub fn without_values(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let text = match (text.find('"'), text.rfind('"')) {
        (Some(first), Some(last)) => format!("{}…{}", &text[..first], &text[last + 1..]),
        _ => text,
    };
    text.chars().take(LONGEST_ERROR).collect()
}

/// Refuses blank fields, and names all of them in one message, so that a producer can fix them together.
pub(crate) fn required(fields: &[(&str, &str)]) -> Result<(), Failure> {
    let blank: Vec<&str> = fields
        .iter()
        .filter(|(_, text)| is_blank(text))
        .map(|(name, _)| *name)
        .collect();
    if blank.is_empty() {
        return Ok(());
    }
    Err(Failure::invalid_field(
        blank.join(", "),
        "required, and must not be blank",
    ))
}

/// Refuses a text of more than `most` characters.
pub(crate) fn at_most(field: &str, text: &str, most: usize) -> Result<(), Failure> {
    // Looks no further than the limit, however long the text is.
    match text.chars().nth(most) {
        None => Ok(()),
        Some(_) => Err(Failure::invalid_field(
            field,
            format_args!("longer than {most} characters"),
        )),
    }
}

/// The text of an optional field, trimmed; `None` when it is absent or blank.
pub(crate) fn given(text: Option<&String>) -> Option<&str> {
    text.map(|text| text.trim()).filter(|text| !is_blank(text))
}

/// The one medium that was given, with the name of its field: `{prefix}Url`, `{prefix}Base64` or
/// `{prefix}FilePath`.
pub(crate) fn one_source<'a>(
    prefix: &str,
    url: Option<&'a String>,
    base64: Option<&'a String>,
    file_path: Option<&'a String>,
) -> Result<(String, MediaSource<'a>), Failure> {
    let mut sources = Vec::new();
    for (suffix, text) in [("Url", url), ("Base64", base64), ("FilePath", file_path)] {
        let Some(whole) = text.filter(|text| !is_blank(text)) else {
            continue;
        };
        let text = whole.trim_matches(|c: char| c.is_whitespace() || is_invisible(c));
        let field = format!("{prefix}{suffix}");
        let source = match suffix {
            _ if is_content(text) => MediaSource::Base64(whole),
            "Url" if is_bare_base64(text) => MediaSource::Base64(whole),
            "Url" => MediaSource::Url(text),
            "Base64" if is_address(text) => {
                let why = format_args!(
                    "is an address, not the file: send an https address as {prefix}Url, and a file on a device as its \
                     content"
                );
                return Err(Failure::invalid_field(field, why));
            }
            "Base64" => MediaSource::Base64(whole),
            _ => MediaSource::FilePath(text),
        };
        sources.push((field, source));
    }
    match (sources.pop(), sources.is_empty()) {
        (Some(source), true) => Ok(source),
        (Some((last, _)), false) => {
            let names: Vec<String> = sources.into_iter().map(|(name, _)| name).chain([last]).collect();
            Err(Failure::invalid_field(
                names.join(", "),
                "only one of them may be given",
            ))
        }
        (None, _) => {
            let names = format!("{prefix}Url, {prefix}Base64, {prefix}FilePath");
            Err(Failure::invalid_field(names, "one of them is required"))
        }
    }
}
