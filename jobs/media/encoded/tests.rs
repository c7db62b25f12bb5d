//! Base64 in every spelling, and what forms, shells and templates make of it.

use base64::{
    Engine,
    prelude::{BASE64_STANDARD, BASE64_URL_SAFE, BASE64_URL_SAFE_NO_PAD},
};
use proptest::prelude::*;

use super::*;

const MOST: u64 = 1 << 20;

fn read(text: &str) -> Result<Vec<u8>, String> {
    decode("f", text, MOST).map_err(|failure| failure.to_string())
}

/// Bytes whose base64 holds many `+` and `/`, and ends in one of them.
fn bytes(length: usize) -> Vec<u8> {
    let mut bytes: Vec<u8> = (0..length)
        .map(|i| if i % 7 < 3 { 0xfb } else { 0xff - i as u8 })
        .collect();
    bytes[0] = 0x10; // No medium begins with a byte that is written as `+`.
    bytes
}

fn wrapped(text: &str, width: usize, between: &str) -> String {
    let symbols: Vec<char> = text.chars().collect();
    let lines: Vec<String> = symbols.chunks(width).map(|line| line.iter().collect()).collect();
    lines.join(between)
}

#[test]
fn every_spelling_is_read() {
    let original = bytes(1_000);
    let text = BASE64_STANDARD.encode(&original);
    let percent = text.replace('+', "%2B").replace('/', "%2f").replace('=', "%3D");
    for spelling in [
        text.clone(),
        text.trim_end_matches('=').to_owned(),
        BASE64_URL_SAFE.encode(&original),
        BASE64_URL_SAFE_NO_PAD.encode(&original),
        percent.clone(),
        percent.replace('%', "%25"),
        text.replace('+', " "),
        text.replace('+', "%20"),
        wrapped(&text, 76, "\r\n"),
        wrapped(&text, 76, "\n") + "\n",
        wrapped(&text, 64, "\n    "),
        wrapped(&text, 76, "\\n"),
        wrapped(&text, 76, " "),
        wrapped(&text, 76, "%0D%0A"),
        wrapped(&text, 76, " ").replace('+', " "),
        wrapped(text.trim_end_matches('='), 64, "  ").replace('+', " "),
        wrapped(text.trim_end_matches('='), 76, " "),
        text.replace('/', "\\/"),
        format!("\"{text}\""),
        format!("'data:image/png;base64,{text}'"),
        format!("{text}\0"),
        format!("  {text}  "),
        format!("data:image/png;base64,{text}"),
        format!("data:image/png;base64, {text}"),
        format!("DATA:audio/webm;codecs=\"opus\";base64,{text}"),
        format!("data:image/jpeg;base64;charset=utf-8,{text}"),
        format!("data:image/jpeg;base64,{percent}"),
        format!("data%3Aimage%2Fjpeg%3Bbase64%2C{percent}"),
        format!("data:image/png;base64,data:image/png;base64,{text}"),
        format!("image/png;base64,{text}"),
        format!("base64,{text}"),
        format!(" \n data:;base64,{}\n", text.replace('+', " ")),
        format!("data:audio/mp4;codecs=mp4a.40.2;base64,{text}"),
        format!("data:video/webm;codecs=vp8,opus;base64,{text}"),
        format!("data:video/webm; codecs=\"vp8, opus\";base64,{text}"),
        format!("\u{feff}{text}"),
        format!("\u{feff}data:image/png;base64,{text}\u{200b}"),
        wrapped(&text, 40, "\u{200b}"),
        wrapped(&text, 50, "\u{ad}"),
        wrapped(&text, 76, "\u{2028}"),
        wrapped(&text, 76, "\u{a0}"),
        text.replace('+', "\u{a0}"),
        format!("\u{2060}'{text}'\u{a0}"),
        percent.replace("%2B", "-").replace("%2f", "_"),
    ] {
        let start: String = spelling.chars().take(60).collect();
        assert_eq!(read(&spelling), Ok(original.clone()), "{start}");
    }
}

#[test]
fn blanks_that_can_be_read_in_two_ways_are_refused() {
    // Wrapped at a column of its own, and its padding lost: what is missing cannot be told.
    let text = BASE64_STANDARD.encode(vec![b'a'; 1_000]);
    assert_eq!(read(&wrapped(&text, 100, " ")), Ok(vec![b'a'; 1_000]));
    let refusal = read(&wrapped(text.trim_end_matches('='), 100, " ")).unwrap_err();
    assert!(refusal.contains("its blanks may have been `+`"), "{refusal}");
    // A symbol at the end was `+`, or the padding is lost and a line break became a blank.
    assert!(read("AAA ").unwrap_err().contains("its blanks may have been `+`"));
    assert_eq!(read("AAAA "), Ok(vec![0; 3]));
    // Cut within a group behind the end of a line, where a blank stands.
    let cut = wrapped(&text[..76 * 3 + 1], 76, " ");
    assert!(
        read(&cut).unwrap_err().contains("its blanks may have been `+`"),
        "{cut}"
    );
    // Invisible characters counted when the lines were broken.
    let edited = wrapped(&format!("{}\u{200b}{}", &text[..9], &text[9..]), 76, " ");
    assert!(
        read(&edited)
            .unwrap_err()
            .contains("its blanks may have been `+`"),
        "{edited}"
    );
}

#[test]
fn a_last_plus_among_the_blanks_at_the_end_is_not_left_out() {
    let mut original = vec![0; 264];
    original[250..252].copy_from_slice(&[79, 128]);
    original[263] = 62;
    let text = BASE64_STANDARD.encode(&original);
    assert!(text.ends_with('+') && text.matches('+').count() == 2);
    for end in ["\n", "\r\n", "  ", "\n\n\n"] {
        let spoilt = format!("{text}{end}").replace(['+', '\n', '\r'], " ");
        let refusal = read(&spoilt).unwrap_err();
        assert!(
            refusal.contains("its blanks may have been `+`"),
            "{end:?}: {refusal}"
        );
    }
}

#[test]
fn no_symbol_of_a_file_shows_in_its_refusal() {
    for text in [
        "SECRET?SECRET",
        "SECRET!",
        "data:image/png,SECRET",
        "SECRE",
        "data:x;base64,SECRETSECR€",
        "SECRET=SECRET=",
    ] {
        let refusal = read(text).unwrap_err();
        assert!(
            refusal.contains("base64") && !refusal.contains("SECR"),
            "{refusal}"
        );
    }
}

#[test]
fn contents_and_addresses_are_told_apart() {
    for content in [
        "data:image/png;base64,AAAA",
        " DATA:,x",
        "data%3Aimage%2Fpng%3Bbase64%2CAAAA",
        "image/png;base64,AAAA",
        "\u{feff}data:image/png;base64,AAAA",
        "\u{200b} data:audio/webm;codecs=opus;base64,AAAA",
        "audio/webm;codecs=\"vp8,opus\";base64,AAAA",
    ] {
        assert!(is_content(content) && !is_address(content), "{content}");
    }
    for address in [
        "https://example.com/a,b;base64,c",
        "file:///a.png",
        "content://media/1",
        "ph://ABC/L0/001",
        "blob://x",
    ] {
        assert!(is_address(address) && !is_content(address), "{address}");
    }
    for other in ["uploads/a.png", "iVBORw0KGgo=", "", "a, b; base64", "//9j4AAQ"] {
        assert!(!is_address(other) && !is_content(other), "{other}");
    }
    assert!(is_bare_base64(&BASE64_STANDARD.encode(bytes(300))) && !is_bare_base64("uploads"));
}

/// As many cases as `PROPTEST_CASES` says, or so many.
pub(in crate::media) fn cases(usual: u32) -> ProptestConfig {
    let told = std::env::var("PROPTEST_CASES").ok();
    ProptestConfig {
        cases: told.and_then(|cases| cases.parse().ok()).unwrap_or(usual),
        failure_persistence: None,
        ..Default::default()
    }
}

/// Spoilings of which a text is wrapped at most once, and made a data URL last.
pub(in crate::media) fn spoilings() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(0_u8..13, 0..5).prop_filter("wrapped once, and made a data URL last", |how| {
        how.iter().filter(|how| matches!(how, 3 | 7)).count() < 2
            && how.iter().rev().skip(1).all(|how| *how != 5)
    })
}

/// What happens to base64 on its way.
pub(in crate::media) fn spoilt(text: &str, how: &[u8]) -> String {
    how.iter().fold(text.to_owned(), |text, how| match how {
        0 => text.replace('+', " "),
        1 => text.trim_end_matches('=').to_owned(),
        2 => text.replace('+', "%2B").replace('/', "%2F").replace('=', "%3D"),
        3 => wrapped(&text, 76, "\r\n"),
        4 => text.replace('+', "-").replace('/', "_"),
        5 => format!("data:image/png;base64,{text}"),
        6 => format!("{text}\n"),
        7 => wrapped(&text, 64, "\n"),
        8 => text.replace('\n', " ").replace('\r', ""),
        9 => format!("\u{feff}{text}"),
        10 => text.replace(' ', "\u{a0}"),
        11 => {
            let middle = text.char_indices().nth(text.len() / 2).map_or(0, |(at, _)| at);
            format!("{}\u{200b}{}", &text[..middle], &text[middle..])
        }
        _ => text.replace('%', "%25"),
    })
}

proptest! {
    #![proptest_config(cases(1024))]

    /// A text that is not cut is decoded completely, or refused.
    #[test]
    fn spoilt_base64_yields_its_bytes_or_is_refused(
        original in prop::collection::vec(any::<u8>(), 1..600),
        how in spoilings(),
    ) {
        let mut original = original;
        original[0] &= 0x7f;
        let text = spoilt(&BASE64_STANDARD.encode(&original), &how);
        if let Ok(bytes) = read(&text) {
            prop_assert_eq!(bytes, original, "{:?}", how);
        }
    }

    /// A text that ends early yields the beginning of the file and no other bytes: the file's own format tells then.
    #[test]
    fn a_cut_yields_a_beginning_or_is_refused(
        original in prop::collection::vec(any::<u8>(), 4..600),
        cut in any::<prop::sample::Index>(),
        how in spoilings(),
    ) {
        let mut original = original;
        original[0] &= 0x7f;
        let mut text = BASE64_STANDARD.encode(&original);
        text.truncate(cut.index(text.len()));
        let text = spoilt(&text, &how);
        if let Ok(bytes) = read(&text) {
            prop_assert!(original.starts_with(&bytes), "{}", text.len());
        }
    }
}
