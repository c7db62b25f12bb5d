use serde_json::{Value, json};

use super::*;

fn payload(change: Value) -> Payload {
    let mut payload = json!({ "content": "c", "subject": "s", "topic": "Cells", "userId": "u" });
    payload
        .as_object_mut()
        .unwrap()
        .extend(change.as_object().unwrap().clone());
    serde_json::from_value(payload).unwrap()
}

fn deck(cards: &[Value], change: Value) -> Deck {
    read(&json!({ "flashcards": cards }).to_string(), &payload(change))
}

fn one(card: Value) -> Flashcard {
    let mut cards = deck(&[card], json!({})).cards;
    assert_eq!(cards.len(), 1);
    cards.remove(0)
}

#[test]
fn a_card_is_repaired() {
    let card = one(json!({
        "front": "\"the  cell.\"", "back": " The unit\nof life. ", "topic": "Other", "difficulty": "EASY",
        "example": " The Cell.\tdivides. \"The cell\" is small. ", "pronunciation": " ",
    }));
    assert_eq!(
        card,
        Flashcard {
            front: "the cell".to_owned(),
            back: "The unit of life".to_owned(),
            topic: "Cells".to_owned(),
            difficulty: Difficulty::Beginner,
            example: "The Cell. divides. \"The cell\" is small.".to_owned(),
            pronunciation: None,
        }
    );
}

#[test]
fn the_other_side_in_brackets_goes() {
    let sides = |front: &str, back: &str| {
        let card = one(json!({ "front": front, "back": back }));
        (card.front, card.back)
    };
    let right = ("la célula".to_owned(), "the cell".to_owned());
    assert_eq!(sides("la célula (the cell)", "the cell"), right);
    assert_eq!(sides("la célula", "the cell (La célula)."), right);
    assert_eq!(sides("run (verb)", "correr").0, "run (verb)");
}

#[test]
fn an_example_without_the_front_is_left_out() {
    let example =
        |example: Value| one(json!({ "front": "Zelle", "back": "cell", "example": example })).example;
    assert_eq!(example(json!("Die ZELLE teilt sich.")), "Die ZELLE teilt sich.");
    assert_eq!(example(json!("Sie teilt sich.")), "");
    assert_eq!(example(json!(null)), "");
    assert_eq!(example(json!("Zelle ".repeat(200))), "");
    assert_eq!(example(json!(["Eine Zelle.", "Zwei Zellen."])), "Eine Zelle.");
    assert_eq!(
        example(json!({ "sentence": "Eine Zelle.", "translation": "A cell." })),
        "Eine Zelle."
    );
}

#[test]
fn an_example_is_repaired_where_only_its_notation_differs() {
    for (front, example, right) in [
        ("l'eau", "L’eau est froide.", "L'eau est froide."),
        ("l’eau", "L'eau est froide.", "L’eau est froide."),
        (
            "la célula",
            "Aquí está **la célula** hoy.",
            "Aquí está la célula hoy.",
        ),
        (
            "la célula",
            "Hay <i>la c&eacute;lula</i> aqu&#237;.",
            "Hay la célula aquí.",
        ),
        ("café", "El cafe\u{301} está listo.", "El café está listo."),
        (
            "Zellkern",
            "Der Zell\u{ad}kern ist rund.",
            "Der Zellkern ist rund.",
        ),
    ] {
        let card = one(json!({ "front": front, "back": "x", "example": example }));
        assert_eq!(card.example, right);
    }
}

#[test]
fn words_for_no_value_are_none() {
    for none in ["null", "None", "N/A", "-", "undefined", "3"] {
        let card = one(json!({ "front": "a", "back": "b", "pronunciation": none }));
        assert_eq!(card.pronunciation, None, "{none}");
    }
    let card = one(json!({ "front": "a", "back": "b", "pronunciation": "/&#712;e&#618;/" }));
    assert_eq!(card.pronunciation.as_deref(), Some("/ˈeɪ/"));
    for none in ["null", "AI Selection", "n/a"] {
        assert!(
            topics(&[(none, 5), ("**Cells**", 5)])
                .iter()
                .all(|topic| topic == "Cells")
        );
    }
}

#[test]
fn cards_below_a_topic_belong_to_it() {
    let group = |topic: &str| {
        let cards: Vec<_> = (0..5)
            .map(|n| json!({ "front": format!("{topic} {n}"), "back": "b" }))
            .collect();
        json!({ "topic": topic, "description": "about it", "difficulty": "hard", "cards": cards })
    };
    let text = json!({ "topics": [group("Cells"), group("Plants")] }).to_string();
    let cards = read(&text, &payload(json!({ "topic": "AI Selection" }))).cards;
    assert_eq!(cards.len(), 10);
    assert_eq!(
        (cards[4].topic.as_str(), cards[5].topic.as_str()),
        ("Cells", "Plants")
    );
    assert_eq!(cards[0].difficulty, Difficulty::Expert);
}

#[test]
fn of_a_translation_and_a_definition_the_deck_takes_what_it_needs() {
    let card = json!({ "term": "célula", "translation": "cell", "definition": "unit of life" });
    let other = json!({ "term": "célula", "definition": "unit of life", "translation": "cell" });
    let languages = json!({ "nativeLanguage": "English", "targetLanguage": "Spanish" });
    for card in [card, other] {
        assert_eq!(
            deck(std::slice::from_ref(&card), languages.clone()).cards[0].back,
            "cell"
        );
        assert_eq!(deck(&[card], json!({})).cards[0].back, "unit of life");
    }
    // A translation can be the same word; a definition that is its term is none.
    let virus = json!({ "front": "virus", "back": "Virus." });
    assert_eq!(
        deck(std::slice::from_ref(&virus), languages).cards[0].back,
        "Virus"
    );
    assert_eq!(deck(&[virus], json!({})).dropped.incomplete, 1);
}

#[test]
fn difficulties_are_read_in_any_spelling() {
    for (written, difficulty) in [
        ("Beginner", Difficulty::Beginner),
        (" beginner ", Difficulty::Beginner),
        ("begginer", Difficulty::Beginner),
        ("Basic", Difficulty::Beginner),
        ("easy", Difficulty::Beginner),
        ("A1", Difficulty::Beginner),
        ("1", Difficulty::Beginner),
        ("Level 1", Difficulty::Beginner),
        ("very easy", Difficulty::Beginner),
        ("Principiante", Difficulty::Beginner),
        ("Fácil", Difficulty::Beginner),
        ("Anfänger", Difficulty::Beginner),
        ("débutant", Difficulty::Beginner),
        ("básico", Difficulty::Beginner),
        ("初級", Difficulty::Beginner),
        ("A2/B1", Difficulty::Beginner),
        ("Lower Intermediate", Difficulty::Intermediate),
        ("high-intermediate", Difficulty::Intermediate),
        ("2", Difficulty::Intermediate),
        ("⭐", Difficulty::Intermediate),
        ("10", Difficulty::Expert),
        ("Very hard", Difficulty::Expert),
        ("avanzado", Difficulty::Expert),
        ("difícil", Difficulty::Expert),
        ("fortgeschritten", Difficulty::Expert),
        ("高级", Difficulty::Expert),
        ("INTERMEDIATE", Difficulty::Intermediate),
        ("medium", Difficulty::Intermediate),
        ("B2", Difficulty::Intermediate),
        ("", Difficulty::Intermediate),
        ("überall", Difficulty::Intermediate),
        ("Expert", Difficulty::Expert),
        ("advanced", Difficulty::Expert),
        ("Hard", Difficulty::Expert),
        ("difficult", Difficulty::Expert),
        ("3", Difficulty::Expert),
    ] {
        assert_eq!(Difficulty::of(written), difficulty, "{written}");
    }
}

#[test]
fn unusable_cards_are_counted_by_reason() {
    let card = |front: &str, back: &str| json!({ "front": front, "back": back });
    let deck = deck(
        &[
            card("What is a cell?", "a unit"),
            card("The cell is the smallest unit of all life", "a fact"),
            card("cell", "unit of life"),
            card(" CELL. ", "the same"),
            card("\u{0}", "nothing"),
            card("wall", " . "),
            card("nucleus", &"very ".repeat(100)),
        ],
        json!({}),
    );
    assert_eq!(deck.cards.len(), 1);
    let counts = (
        deck.dropped.questions,
        deck.dropped.sentences,
        deck.dropped.duplicates,
        deck.dropped.incomplete,
    );
    assert_eq!(counts, (1, 1, 1, 3));
    assert_eq!(
        deck.dropped.to_string(),
        "3 incomplete, 1 with a question as front, 1 with a sentence as front, 1 duplicates"
    );
}

#[test]
fn a_long_back_keeps_its_first_clause() {
    let long =
        "the smallest structural unit of an organism; it has a membrane, a nucleus and many organelles";
    let definition = deck(&[json!({ "front": "cell", "back": long })], json!({}));
    assert_eq!(
        definition.cards[0].back,
        "the smallest structural unit of an organism"
    );
    let whole = "process by which green plants turn light and water and air into sugar and oxygen";
    let without_clause = deck(&[json!({ "front": "cell", "back": whole })], json!({}));
    assert_eq!(without_clause.cards[0].back, whole);
    let languages = json!({ "nativeLanguage": "English", "targetLanguage": "Spanish" });
    for (translation, right) in [
        (
            "the cell: the smallest unit of all living things that can live alone",
            "the cell",
        ),
        (
            "the cell (the smallest unit of all living things that can live alone)",
            "the cell",
        ),
        (
            "cell. It is the smallest unit of all living things on earth",
            "cell",
        ),
        ("the cell; cell", "the cell; cell"),
        (whole, whole),
    ] {
        let card = json!({ "front": "célula", "back": translation });
        assert_eq!(deck(&[card], languages.clone()).cards[0].back, right);
    }
}

fn numbered(topics: &[(&str, usize)]) -> Vec<Value> {
    let cards = topics
        .iter()
        .flat_map(|(topic, count)| std::iter::repeat_n(topic, *count));
    cards
        .enumerate()
        .map(|(n, topic)| json!({ "front": format!("term {n}"), "back": "b", "topic": topic }))
        .collect()
}

fn topics(cards: &[(&str, usize)]) -> Vec<String> {
    let deck = deck(&numbered(cards), json!({ "topic": "ai selection" }));
    deck.cards.into_iter().map(|card| card.topic).collect()
}

#[test]
fn small_topics_go_to_the_largest() {
    let merged = topics(&[("Cells", 2), ("cells ", 4), ("DNA", 7), ("Odd", 4), ("", 6)]);
    let count = |name: &str| merged.iter().filter(|topic| *topic == name).count();
    assert_eq!((count("Cells"), count("DNA"), merged.len()), (6, 17, 23));
    assert!(
        topics(&[("A", 3), ("B", 4), ("C", 4)])
            .iter()
            .all(|topic| topic == "B")
    );
    assert!(topics(&[("", 3)]).iter().all(|topic| topic == "General"));
}

#[test]
fn the_same_front_may_stand_in_two_topics_until_they_merge() {
    let mut cards = numbered(&[("Cells", 6), ("Law", 6)]);
    cards[0]["front"] = json!("nucleus");
    cards[6]["front"] = json!("nucleus");
    let free = json!({ "topic": "AI Selection" });
    assert_eq!(deck(&cards, free.clone()).cards.len(), 12);
    // Five cards of a topic are enough for it, four are not.
    cards.truncate(10);
    assert_eq!(deck(&cards, free).cards.len(), 9);
    assert_eq!(deck(&cards, json!({})).cards.len(), 9);
}

#[test]
fn a_deck_has_no_more_cards_than_it_may() {
    let cards = numbered(&[("t", 60)]);
    assert_eq!(deck(&cards, json!({ "count": 12 })).cards.len(), 12);
    assert_eq!(deck(&cards, json!({})).cards.len(), super::super::MOST_CARDS);
}
