use super::*;

#[test]
fn each_band_has_its_own_text() {
    let overall = |score| feedback(vec![], |a| a.pronunciation_score = score).overall;
    let texts = [95.0, 85.0, 65.0, 45.0, 5.0].map(overall);
    for (n, text) in texts.iter().enumerate() {
        assert!(!text.is_empty() && !texts[n + 1..].contains(text), "{text}");
    }
    assert_eq!(overall(60.0), texts[2]);
    assert_eq!(overall(59.9), texts[3]);
    assert_eq!(overall(0.0), texts[4]);

    let accuracy = [90.0, 70.0, 10.0].map(|score| feedback(vec![], |a| a.accuracy_score = score).accuracy);
    let fluency = [90.0, 70.0, 10.0].map(|score| feedback(vec![], |a| a.fluency_score = score).fluency);
    for texts in [accuracy, fluency] {
        assert!(
            texts[0] != texts[1] && texts[1] != texts[2] && texts[0] != texts[2],
            "{texts:?}"
        );
    }
}

fn issue(word: Word) -> Option<(String, String)> {
    let mut issues = feedback(vec![word], |_| ()).word_issues;
    issues.pop().map(|issue| (issue.issue, issue.suggestion))
}

#[test]
fn good_words_are_no_issue() {
    assert_eq!(issue(word("None", 60.0, &[("m", 10.0)])), None);
}

#[test]
fn every_error_type_has_its_suggestion() {
    for (error_type, part) in [
        ("Omission", "left out \"morning\""),
        ("Insertion", "\"morning\" is not in the sentence"),
        ("UnexpectedBreak", "Do not pause"),
        ("MissingBreak", "Pause briefly"),
        ("Monotone", "rise and fall"),
        ("Mispronunciation", "Listen to \"morning\""),
        ("SomethingNew", "Listen to \"morning\""),
    ] {
        let (issue, suggestion) = issue(word(error_type, 90.0, &[])).unwrap();
        assert_eq!(issue, error_type);
        assert!(suggestion.contains(part), "{suggestion}");
    }
}

#[test]
fn names_the_weakest_sounds() {
    let sounds = [
        ("m", 50.0),
        ("ɔː", 20.0),
        ("n", 95.0),
        ("ɪ", 30.0),
        ("ɔː", 25.0),
        ("ŋ", 55.0),
        ("", 1.0),
    ];
    let (name, suggestion) = issue(word("None", 59.9, &sounds)).unwrap();
    assert_eq!(name, "LowAccuracy");
    assert_eq!(suggestion, "Practise the sounds /ɔː/, /ɪ/, /m/ in \"morning\".");
    let (_, suggestion) = issue(word("Mispronunciation", 30.0, &[("m", 5.0)])).unwrap();
    assert_eq!(suggestion, "Practise the sound /m/ in \"morning\".");
}
