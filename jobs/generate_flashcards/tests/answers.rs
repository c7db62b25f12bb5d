use super::*;

#[test]
fn trims_drops_and_deduplicates() {
    let mut cards = numbered(10);
    cards[3]["front"] = json!("  spaced   out \n");
    cards[3]["pronunciation"] = json!(" /speɪst/ ");
    cards[4]["pronunciation"] = json!(" ");
    cards.extend([
        card("SPACED OUT", "Cells"),
        card("Ünïcode", "Cells"),
        card("ÜNÏCODE", "Cells"),
        card(" ", "Cells"),
        json!({ "front": "no back", "back": "", "difficulty": "expert" }),
        json!({ "front": "odd", "back": "b", "difficulty": "nightmare" }),
        json!("not a card"),
    ]);
    let cards = read(&deck(&cards), json!({}));
    assert_eq!(cards.len(), 11);
    assert_eq!(cards[3].front, "spaced   out");
    assert_eq!(cards[3].pronunciation.as_deref(), Some("/speɪst/"));
    assert_eq!(cards[4].pronunciation, None);
    assert_eq!(cards[10].front, "Ünïcode");
}

#[test]
fn keeps_no_more_than_asked_for() {
    assert_eq!(read(&deck(&numbered(50)), json!({})).len(), 40);
    assert_eq!(read(&deck(&numbered(50)), json!({ "count": 15 })).len(), 15);
}

#[test]
fn a_fixed_topic_stands_on_every_card() {
    let cards: Vec<Value> = (0..10)
        .map(|n| card(&format!("f{n}"), "the model's own"))
        .collect();
    assert!(
        read(&deck(&cards), json!({ "topic": " Mitosis " }))
            .iter()
            .all(|card| card.topic == "Mitosis")
    );
}

fn topics(given: &[(&str, usize)]) -> Vec<String> {
    let cards: Vec<Value> = given
        .iter()
        .flat_map(|(topic, count)| (0..*count).map(move |n| (topic, n)))
        .enumerate()
        .map(|(id, (topic, _))| card(&format!("front {id}"), topic))
        .collect();
    read(&deck(&cards), json!({ "topic": "AI Selection" }))
        .into_iter()
        .map(|card| card.topic)
        .collect()
}

#[test]
fn small_topics_go_to_the_largest() {
    let merged = topics(&[("Cells", 2), ("cells ", 4), ("DNA", 7), ("Odd", 4), ("", 6)]);
    let count = |name: &str| merged.iter().filter(|topic| *topic == name).count();
    assert_eq!((count("Cells"), count("DNA"), merged.len()), (6, 17, 23));
}

#[test]
fn only_small_topics_become_one() {
    assert!(
        topics(&[("A", 3), ("B", 4), ("C", 4)])
            .iter()
            .all(|topic| topic == "B")
    );
    assert!(topics(&[("", 10)]).iter().all(|topic| topic == "General"));
}

#[test]
fn refusals_and_filters_are_permanent() {
    let refusal = format!("I cannot\nhelp {}", "x".repeat(500));
    let failure = refused(&json!({
        "choices": [{ "message": { "content": null, "refusal": refusal }, "finish_reason": "stop" }],
    }));
    assert_eq!(
        (failure.class(), failure.provider()),
        (Class::Permanent, Some(Provider::OpenAi))
    );
    assert!(
        failure.message().contains("I cannot help xxx") && failure.message().len() < 250,
        "{failure}"
    );

    let failure = refused(&json!({
        "choices": [{ "message": { "content": "{}" }, "finish_reason": "content_filter" }],
    }));
    assert_eq!(failure.class(), Class::Permanent);
    assert!(failure.message().contains("content filter"));
}

#[test]
fn what_is_of_another_type_is_not_there() {
    let mut body = deck(&numbered(12));
    body["choices"][0]["message"]["refusal"] = json!(7);
    body["usage"]["total_tokens"] = json!("150");
    body["usage"]["completion_tokens"] = json!(-1);
    let (answer, usage) = answer::read(&to_raw_value(&body).unwrap(), &payload(json!({}))).unwrap();
    assert!(matches!(answer, Answer::Cards(cards) if cards.len() == 12));
    assert_eq!(
        (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens),
        (100, 0, 100)
    );
    body["choices"][0]["finish_reason"] = json!(3);
    assert!(refused(&body).message().contains("no finished choice"));
}

#[test]
fn nothing_that_the_model_wrote_shows_in_a_failure() {
    let wrote = json!({ "flashcards": format!("the learner's own {}", "words ".repeat(500)) });
    let failure = refused(&json!({
        "choices": [{ "message": { "content": wrote.to_string() }, "finish_reason": "stop" }],
    }));
    let text = failure.to_string();
    assert!(text.contains("expected a sequence") && text.len() < 300, "{text}");
    assert!(!text.contains("words"), "{text}");
}

#[test]
fn unusable_answers_are_transient() {
    let finished = |content: Value| {
        json!({
            "choices": [{ "message": { "content": content }, "finish_reason": "stop" }],
        })
    };
    let mut unfinished = deck(&numbered(20));
    unfinished["choices"][0]["finish_reason"] = Value::Null;
    for (body, why) in [
        (json!(null), "no finished choice"),
        (json!([]), "no finished choice"),
        (json!({ "choices": [] }), "no finished choice"),
        (json!({ "choices": "?" }), "no finished choice"),
        (unfinished, "no finished choice"),
        (finished(Value::Null), "no content"),
        (finished(json!({})), "no content"),
        (finished(json!("")), "not the agreed JSON"),
        (finished(json!("Here are your cards!")), "not the agreed JSON"),
        (finished(json!("[]")), "not the agreed JSON"),
        (finished(json!("{\"flashcards\":{}}")), "not the agreed JSON"),
        (deck(&[]), "only 0 usable flashcards"),
        (deck(&numbered(9)), "only 9 usable flashcards"),
        (deck(&vec![card("same", "t"); 30]), "only 1 usable flashcards"),
    ] {
        let failure = refused(&body);
        assert_eq!(
            (failure.class(), failure.provider()),
            (Class::Transient, Some(Provider::OpenAi)),
            "{body}"
        );
        assert!(failure.message().contains(why), "{body}: {failure}");
    }
}
