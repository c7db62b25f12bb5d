use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

fn cards(text: &str) -> (Vec<RawCard>, ScanEnd) {
    let mut cards = Vec::new();
    let end = scan(text, &mut |card| {
        cards.push(card);
        ControlFlow::Continue(())
    });
    (cards, end)
}

/// `front=back` of each card.
fn pairs(text: &str) -> Vec<String> {
    let pair = |card: RawCard| format!("{}={}", card.front, card.back(true));
    cards(text).0.into_iter().map(pair).collect()
}

const TWO: &str = r#"[{"front":"a","back":"1"},{"front":"b","back":"2"}]"#;

#[test]
fn a_deck_is_found_whatever_stands_around_it() {
    for text in [
        TWO.to_owned(),
        format!("{{\"flashcards\":{TWO}}}"),
        format!("{{\"deck\":{{\"cards\":{TWO},\"count\":2}},\"ok\":true}}"),
        format!("\u{feff}{TWO}"),
        format!("```json\n{TWO}\n```"),
        format!("~~~\n{TWO}\n~~~"),
        format!("Here are your cards:\n\n{TWO}\n\nLet me know if it's too few!"),
        format!("Sure [as asked]: {{note: 'two'}} {TWO}"),
        format!("<think>A draft: {{\"front\":\"x\",\"back\":\"y\"}}</think>\n{TWO}"),
        format!("<think>1</think><THINK>2</THINK>{TWO}"),
        format!("Drafting {{\"front\":\"x\",\"back\":\"y\"}} first.</think>{TWO}"),
        format!("[THINK]hm[/THINK]{TWO}"),
        format!("<|channel|>analysis<|message|>hm<|end|><|start|>assistant<|channel|>final<|message|>{TWO}"),
        Value::from(TWO).to_string(),
        Value::from(Value::from(TWO).to_string()).to_string(),
        format!("{{\"front\":{{\"type\":\"string\"}},\"back\":{{\"type\":\"string\"}}}} {TWO}"),
        format!("{{\"arguments\":{TWO}}}"),
        json!({ "flashcards": TWO }).to_string(),
        json!({ "answer": json!({ "cards": TWO }).to_string() }).to_string(),
        format!("```json\n{}\n```", Value::from(TWO)),
        TWO.replace('"', "\\\""),
        format!("<think>I write two cards.\n{{\"flashcards\":{TWO}}}"),
        format!("<think>I write two cards.\n```json\n{TWO}\n```\n"),
        format!("<scratchpad>{{\"front\":\"x\",\"back\":\"y\"}}</scratchpad>{TWO}"),
        format!("In [0, 1) and \"x\": {TWO}"),
        format!("Smile :{{ \"hm\" it's {TWO}"),
        format!("{{\"term\":\"Cells\",\"description\":\"what they are\",\"cards\":{TWO}}}"),
    ] {
        assert_eq!(pairs(&text), ["a=1", "b=2"], "{text}");
        assert_eq!(cards(&text).1, ScanEnd::Complete, "{text}");
    }
}

#[test]
fn nearly_json_is_read() {
    for text in [
        "[{\"front\":\"a\",\"back\":\"1\",},{\"front\":\"b\",\"back\":\"2\",},]",
        "[{'front':'a','back':'1'},{'front':'b','back':'2'}]",
        "[{front:\"a\",back:\"1\"},{front:'b',back:2}]",
        "[{\u{201c}front\u{201d}: \u{201c}a\u{201d}, \u{201c}back\u{201d}: \u{201c}1\u{201d}}, {\"front\":\"b\",\"back\":2}]",
        "[{\"front\":\"a\" \"back\":\"1\"} {\"front\":\"b\"\n\"back\":\"2\"}]",
        "[{\"front\":\"a\", // the first\n\"back\":\"1\"}, /* {} */ {\"front\":\"b\",\"back\":\"2\"}]",
        "[{\"Front\":\"a\",\"BACK\":\"1\",\"example\":None},{\"term\":\"b\",\"translation\":\"2\",\"topic\":null}]",
        "[{\"word\":\"x\",\"front\":\"a\",\"back\":\"1\"},{\"front\":\"b\",\"back\":\"2\",\"definition\":\"y\"}]",
        "{\"a\":{\"front\":\"a\",\"back\":\"1\"},\"b\":{\"front\":\"b\",\"back\":[\"2\"]}}",
        "[{\"question\":\"a\",\"answer\":1},{\"q\":\"b\",\"a\":\"2\"}]",
        "[{\"FRONT TEXT\":\"a\",\"back_text\":\"1\"},{\"frontSide\":\"b\",\"backSide\":\"2\"}]",
        "[{\"front\":{\"text\":\"a\",\"lang\":\"es\"},\"back\":{\"text\":\"1\"}},{\"front\":\"b\",\"back\":{\"translation\":\"2\",\"definition\":\"y\"}}]",
    ] {
        assert_eq!(pairs(text), ["a=1", "b=2"], "{text}");
    }
    let named = r#"{"cards":{"la célula":{"back":"1"},"el núcleo":{"translation":"2","level":"easy"}}}"#;
    assert_eq!(pairs(named), ["la célula=1", "el núcleo=2"]);
    let quoted = r#"[{"front":"greet","back":"say "hi", or "hello" to","example":"He said "hi"."},{"front":"b","back":"2"}]"#;
    assert_eq!(pairs(quoted), [r#"greet=say "hi", or "hello" to"#, "b=2"]);
    assert_eq!(cards(quoted).0[0].example, "He said \"hi\".");
    assert_eq!(
        pairs("[{\"front\":\"two\nlines\",\"back\":\"a\tb\"}]"),
        ["two\nlines=a\tb"]
    );
    assert_eq!(
        pairs(r#"[{"front":"\alpha \u00e9 \ud83d","back":["x","y"]}]"#),
        ["\\alpha é \u{fffd}=x, y"]
    );
}

#[test]
fn a_cut_text_yields_its_complete_cards() {
    let whole = format!("Cards: {{\"flashcards\":{TWO}}}");
    for cut in 0..whole.len() {
        let (found, end) = cards(&whole[..cut]);
        assert!(found.len() <= 2);
        assert_eq!(end == ScanEnd::CutOff, cut > "Cards: ".len(), "{}", &whole[..cut]);
    }
    assert_eq!(pairs(&whole[..whole.len() - 3]), ["a=1"]);
    assert_eq!(pairs(&whole[..whole.len() - 2]), ["a=1", "b=2"]);
    let twice = format!("\"{}", TWO.replace('"', "\\\""));
    assert_eq!(pairs(&twice[..twice.len() - 8]), ["a=1"]);
    assert!(pairs("<think>Perhaps {\"front\":\"x\",\"back\":\"y\"}").is_empty());
}

#[test]
fn a_tag_on_a_card_is_text() {
    let html = r#"{"cards":[{"front":"</think>","back":"a tag"},{"front":"b","back":"2"}]}"#;
    assert_eq!(pairs(html), ["</think>=a tag", "b=2"]);
}

#[test]
fn an_object_without_both_sides_is_not_a_card() {
    for text in [
        "{\"front\":\"a\"}",
        "{\"back\":\"a\"}",
        "{\"front\":null,\"back\":\"a\"}",
        "{\"x\":{\"front\":null,\"back\":\"a\"}}",
        "{\"metadata\":{\"description\":\"a\"}}",
        "{\"front\":{},\"back\":\"a\"}",
        "[\"front\",\"back\"]",
        "front back",
        "",
    ] {
        assert!(pairs(text).is_empty(), "{text}");
    }
}

#[test]
fn deep_nesting_is_skipped() {
    let deep = format!("{}{TWO}{}", "[".repeat(100_000), "]".repeat(100_000));
    assert!(pairs(&deep).is_empty());
    let around = format!("[{deep},{{\"front\":\"c\",\"back\":\"3\"}}]");
    assert_eq!(pairs(&around), ["c=3"]);
}

fn any_text() -> impl Strategy<Value = String> {
    prop_oneof![
        any::<String>(),
        "[\"'\\\\{}\\[\\],: a-z\n\u{201c}\u{201d}/*]{0,24}"
    ]
}

proptest! {
    /// Valid JSON is read as a strict parser reads it, whatever stands in its strings.
    #[test]
    fn valid_json_is_read_exactly(
        sides in proptest::collection::vec((any_text(), any_text(), any_text(), any_text()), 0..5),
        pretty in any::<bool>(),
    ) {
        let deck: Vec<Value> = sides
            .iter()
            .map(|(front, back, key, example)| json!({
                "front": front, "back": back, "x": { (key): [example, 1, null, {"y": key}] }, "example": example,
            }))
            .collect();
        let deck = json!({ "flashcards": deck });
        let text = if pretty { serde_json::to_string_pretty(&deck).unwrap() } else { deck.to_string() };
        let (found, end) = cards(&text);
        prop_assert_eq!(end, ScanEnd::Complete);
        prop_assert_eq!(found.len(), sides.len());
        for (card, (front, back, _, example)) in found.iter().zip(&sides) {
            prop_assert_eq!(&card.front, front);
            // A blank side counts as missing.
            let back = if back.trim().is_empty() { "" } else { back };
            prop_assert_eq!(card.back(true), back);
            prop_assert_eq!(&card.example, example);
        }
    }

    #[test]
    fn any_text_is_scanned(text in any_text()) {
        cards(&text);
    }
}

/// The cards that a text shows while it grows in these parts.
fn growing<'t>(parts: impl IntoIterator<Item = &'t str>) -> Vec<RawCard> {
    let (mut scan, mut cards) = (growing::GrowingScan::default(), Vec::new());
    for part in parts {
        scan.push(part, &mut |card| cards.push(card));
    }
    cards
}

#[test]
fn a_card_is_found_once_it_is_whole() {
    let deck = r#"{"flashcards":[{"front":"a","back":"1"},{"front":"b","back":"2"}]}"#;
    let first = deck.find("},").unwrap();
    assert_eq!(growing([&deck[..first]]).len(), 0);
    assert_eq!(growing([&deck[..=first]]).len(), 1);
    for text in [
        deck.to_owned(),
        format!("```json\n{deck}\n```"),
        format!("<think>{{}}</think>\n{deck}"),
        format!("Here:\n```\n{deck}"),
    ] {
        let parts: Vec<String> = text.chars().map(String::from).collect();
        assert_eq!(
            growing(parts.iter().map(String::as_str)),
            cards(&text).0,
            "{text}"
        );
    }
    // Reasoning shows no card, and neither does what only the whole text can tell.
    for text in [
        format!("<think>{deck}"),
        format!("A draft: {deck}"),
        Value::from(deck).to_string(),
        deck.replace('"', "\\\""),
    ] {
        assert_eq!(growing([text.as_str()]).len(), 0, "{text}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1024))]

    /// However a text that begins with JSON is cut, the cards are those of the whole text, and the last look leaves out
    /// the end at most.
    #[test]
    fn a_growing_text_shows_the_cards_of_the_whole(
        text in r#"[\[{] ?"(flashcards":\[)?[{}\[\]:,"' \\/a-c\nfront“”`<>-]{0,120}"#,
        deck in prop::option::of(0..4_usize),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..16),
    ) {
        let decks = [
            r#"{"flashcards":[{"front":"a","back":"say "hi", or "hello""},{"front":"b","back":"2",},{'front':'c','back':'3'}]}"#,
            "[{\"front\":\"a\" \"back\":\"1\"} // x\n{\"front\":\"b\"\n\"back\":\"2\"} /* {} */ {\"front\": {\"text\":\"c\"}, \"back\":[\"3\"]}]",
            r#"{"topics":[{"topic":"t","cards":[{"term":"a","definition":"1"}]},{"la célula":{"back":"1"}}],"x":"[{\"front\":\"b\",\"back\":\"2\"}]"}"#,
            r#"{"a":{"front":"a","back":"1","examples":[{"text":"x"},{"text":"y"}]},"b":{"front":"b","back":{"translation":"2"}}}"#,
        ];
        let text = deck.map_or(text, |deck| decks[deck].to_owned());
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(text.len() + 1)).filter(|at| text.is_char_boundary(*at)).collect();
        cuts.sort_unstable();
        cuts.push(text.len());
        let mut from = 0;
        let parts: Vec<&str> = cuts.iter().map(|end| &text[std::mem::replace(&mut from, *end)..*end]).collect();
        let (shown, whole) = (growing(parts), cards(&text).0);
        prop_assert!(shown.len() <= whole.len() && shown == whole[..shown.len()], "{:?} of {:?} in {}", shown, whole, text);
        // A part that is short beside what waits is not looked at.
        if deck.is_some() {
            prop_assert!(shown.len() + 1 >= whole.len(), "{}", text);
        }
    }
}
