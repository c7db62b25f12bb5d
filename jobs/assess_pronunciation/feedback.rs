//! Texts about the scores for the learner: short, friendly, and with a suggestion for the next step.

use super::{Assessment, Feedback, PASS_SCORE, Word, WordIssue};

/// A word or a sound below this is worth practice.
const WEAK: f64 = PASS_SCORE;
/// Maximum number of sounds in one suggestion: learners cannot practise more at once.
const MOST_SOUNDS: usize = 3;

/// Texts by the lowest score that earns them, best first. The last one is for all the rest.
type Bands = [(f64, &'static str)];

const OVERALL: &Bands = &[
    (90.0, "Excellent! You sound clear and natural."),
    (80.0, "Very good! Only small details are left to polish."),
    (
        60.0,
        "Good work, you passed. Practise the words below to sound even clearer.",
    ),
    (
        40.0,
        "You are on the way. Listen to the sentence again and repeat it slowly.",
    ),
    (
        0.0,
        "This one is hard. Take it word by word, then try the whole sentence again.",
    ),
];

const ACCURACY: &Bands = &[
    (80.0, "Your sounds are accurate."),
    (60.0, "Most sounds are right; a few need care."),
    (
        0.0,
        "Many sounds differ from the model. Listen closely and copy one word at a time.",
    ),
];

const FLUENCY: &Bands = &[
    (80.0, "You speak smoothly, with natural pauses."),
    (
        60.0,
        "Your rhythm is mostly good; try to link the words and pause less.",
    ),
    (
        0.0,
        "There are many breaks. Read the sentence a few times, then say it in one flow.",
    ),
];

/// The feedback on an assessment.
pub(super) fn on(assessment: &Assessment) -> Feedback {
    Feedback {
        overall: band(OVERALL, assessment.pronunciation_score).to_owned(),
        accuracy: band(ACCURACY, assessment.accuracy_score).to_owned(),
        fluency: band(FLUENCY, assessment.fluency_score).to_owned(),
        word_issues: assessment.words.iter().filter_map(issue).collect(),
    }
}

fn band(bands: &Bands, score: f64) -> &'static str {
    bands
        .iter()
        .find(|(lowest, _)| score >= *lowest)
        .or(bands.last())
        .map_or("", |(_, text)| text)
}

fn issue(word: &Word) -> Option<WordIssue> {
    let issue = match word.error_type.as_str() {
        "None" if word.accuracy_score >= WEAK => return None,
        "None" => "LowAccuracy",
        error_type => error_type,
    };
    let name = &word.word;
    let suggestion = match issue {
        "Omission" => format!("You left out \"{name}\". Say every word of the sentence."),
        "Insertion" => format!("\"{name}\" is not in the sentence. Say only what is written."),
        "UnexpectedBreak" => format!("Do not pause before \"{name}\"."),
        "MissingBreak" => format!("Pause briefly before \"{name}\"."),
        "Monotone" => format!("Let your voice rise and fall when you say \"{name}\"."),
        _ => match weak_sounds(word).as_slice() {
            [] => format!("Listen to \"{name}\" and repeat it slowly."),
            [sound] => format!("Practise the sound {sound} in \"{name}\"."),
            sounds => format!("Practise the sounds {} in \"{name}\".", sounds.join(", ")),
        },
    };
    Some(WordIssue {
        word: name.clone(),
        issue: issue.to_owned(),
        score: word.accuracy_score,
        suggestion,
    })
}

/// The weakest sounds of a word, weakest first, each once.
fn weak_sounds(word: &Word) -> Vec<String> {
    let mut weak: Vec<_> = word
        .phonemes
        .iter()
        .filter(|p| p.accuracy_score < WEAK && !p.phoneme.is_empty())
        .collect();
    weak.sort_by(|a, b| a.accuracy_score.total_cmp(&b.accuracy_score));
    let mut sounds: Vec<String> = Vec::new();
    for phoneme in weak {
        let sound = format!("/{}/", phoneme.phoneme);
        if sounds.len() < MOST_SOUNDS && !sounds.contains(&sound) {
            sounds.push(sound);
        }
    }
    sounds
}
