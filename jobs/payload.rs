//! Common rules of the payloads: an error names the refused field, and the reason. A blank optional field counts as
//! absent, because producers send `""` and `null` for empty fields of a form.

use crate::{Failure, media::Source};

#[cfg(test)]
mod tests;

/// Longest text of a decoding error, characters.
const LONGEST_ERROR: usize = 200;

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
        .filter(|(_, text)| text.trim().is_empty())
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
    text.map(|text| text.trim()).filter(|text| !text.is_empty())
}

/// The one medium that was given, with the name of its field: `{prefix}Url`, `{prefix}Base64` or
/// `{prefix}FilePath`.
pub(crate) fn one_source<'a>(
    prefix: &str,
    url: Option<&'a String>,
    base64: Option<&'a String>,
    file_path: Option<&'a String>,
) -> Result<(String, Source<'a>), Failure> {
    let mut sources: Vec<(String, Source<'a>)> = [
        ("Url", given(url).map(Source::Url)),
        ("Base64", given(base64).map(Source::Base64)),
        ("FilePath", given(file_path).map(Source::FilePath)),
    ]
    .into_iter()
    .filter_map(|(suffix, source)| Some((format!("{prefix}{suffix}"), source?)))
    .collect();

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
