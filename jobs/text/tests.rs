use proptest::prelude::*;
use serde_json::Value;

use super::*;

#[test]
fn lone_surrogates_become_the_replacement_character() {
    for (json, right) in [
        (r#""\ud83d""#, "\u{fffd}"),
        (r#""a\ud83db""#, "a\u{fffd}b"),
        (r#""\ude00""#, "\u{fffd}"),
        (r#""\ude00\ud83d""#, "\u{fffd}\u{fffd}"),
        (r#""\ud83d\ud83d\ude00""#, "\u{fffd}\u{1f600}"),
        (r#""\uD83D\uDE00""#, "\u{1f600}"),
        (r#""\ud83d\n\ude00""#, "\u{fffd}\n\u{fffd}"),
        // The backslash is escaped: these are six plain characters.
        (r#""\\ud83d""#, "\\ud83d"),
        (r#""\\\ud83d""#, "\\\u{fffd}"),
    ] {
        let mended = without_lone_surrogates(json);
        assert_eq!(serde_json::from_str::<String>(&mended).unwrap(), right, "{json}");
    }
    let fine = r#"{"a":"\ud83d\ude00 \u00e9"}"#;
    assert!(matches!(without_lone_surrogates(fine), Cow::Borrowed(_)));
    // The text can end anywhere.
    for cut in [
        "\\",
        "\\u",
        "\\ud8",
        "\\ud83d",
        "\\ud83d\\",
        "é\\é",
        "\\ud83d\\u12é",
    ] {
        without_lone_surrogates(cut);
    }
}

#[test]
fn controls_and_blanks_are_cleaned() {
    for (text, right) in [
        ("caf\u{0}e9", "cafe9"),
        ("\u{0}", ""),
        (" \u{feff}a\r\n\t b\u{7f}\u{85}c ", "a b c"),
        ("a\u{200b}b\u{202e}c", "abc"),
        (
            "Zell\u{ad}kern \u{200e}a\u{200f}\u{2066}b\u{2069}\u{61c}",
            "Zellkern ab",
        ),
        ("a\u{1ffff}b\u{fdd0}", "ab"),
        ("e\u{301}", "é"),
        ("می\u{200c}خواهم", "می\u{200c}خواهم"),
        ("\u{fffd}", "\u{fffd}"),
    ] {
        assert_eq!(clean(text), right, "{text:?}");
    }
    assert_eq!(folded("  Straße \u{3000} ÄB "), "straße äb");
    assert_eq!(folded("ΟΔΟΣ"), folded("οδος"));
}

#[test]
fn prose_keeps_its_lines_and_loses_its_controls() {
    for (text, right) in [
        ("caf\u{0}\u{e9}", "caf\u{e9}"),
        ("a\r\nb\rc\td\n", "a\nb\nc\td\n"),
        ("\u{feff}a\u{1b}[31m\u{7f}\u{85}b\u{ffff}\u{fdd0}", "a[31mb"),
        (
            "zero\u{200b}width \u{1f469}\u{200d}\u{1f52c}",
            "zero\u{200b}width \u{1f469}\u{200d}\u{1f52c}",
        ),
        ("\u{0}", ""),
    ] {
        assert_eq!(without_controls(text.to_owned()), right, "{text:?}");
    }
    for blank in ["", " \n", "\u{0}", "\u{200b}\u{feff} \u{2060}"] {
        assert!(is_blank(blank), "{blank:?}");
    }
    assert!(!is_blank("\u{200b}a") && !is_blank("\u{fffd}"));
    assert_eq!(beginning("a\u{0}b\nc", 10), "ab c");
    assert_eq!(beginning(&"\u{e4}".repeat(5_000), 3), "\u{e4}\u{e4}\u{e4}…");
}

proptest! {
    #[test]
    fn mended_json_is_valid_and_valid_json_is_unchanged(text in any::<String>()) {
        let json = Value::from(text).to_string();
        prop_assert_eq!(without_lone_surrogates(&json), json.as_str());
    }

    #[test]
    fn any_escapes_can_be_read_once_mended(halves in proptest::collection::vec(0xd700u16..=0xe0ff, 0..8)) {
        let escapes: String = halves.iter().map(|unit| format!("\\u{unit:04x}")).collect();
        let json = format!("\"{escapes}\"");
        let read: String = serde_json::from_str(&without_lone_surrogates(&json)).unwrap();
        prop_assert_eq!(read, String::from_utf16_lossy(&halves));
    }

    #[test]
    fn cleaning_is_final(text in any::<String>()) {
        let once = clean(&text);
        prop_assert_eq!(clean(&once), once);
    }

    #[test]
    fn most_texts_need_no_table(text in "[ -\u{2ff}]{0,30}|[a-é  ]{0,20}") {
        prop_assert_eq!(clean(&text), cleaned(&text));
    }
}
