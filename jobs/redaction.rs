//! Removes secrets from texts. A provider may echo a key in any notation, and the key must not reach a job's reason, a
//! result or a log.
//!
//! The search finds a secret in plain text in any case of its letters, in base64 (at any offset in the encoded data),
//! in hexadecimal and percent-encoded; and each of these in part, from twelve characters on. The search looks at one pair of
//! bytes in seven, and at all of them where a form of a secret holds that pair: most texts hold no secret.

use std::{borrow::Cow, collections::HashSet, fmt, sync::OnceLock};

use base64::{Engine, engine::general_purpose::STANDARD_NO_PAD};

/// Replacement of a secret.
const STAND_IN: &str = "[key]";
/// Characters of a secret from which on it is recognised in part.
const WINDOW: usize = 12;
/// Shorter secrets are none: to take out every occurrence would garble texts.
const SHORTEST: usize = 8;
/// Pairs of neighbouring bytes in the shortest form: at least one of so many pairs in a row belongs to a form that begins
/// among them.
const PAIRS: usize = SHORTEST - 1;

static PROCESS: OnceLock<Redactor> = OnceLock::new();

/// Names the secrets of this process, once: those of a second call are ignored.
pub fn hide<'a>(secrets: impl IntoIterator<Item = &'a str>) {
    let _ = PROCESS.set(Redactor::new(secrets));
}

/// The text without the secrets of this process.
pub fn conceal(text: &str) -> Cow<'_, str> {
    match PROCESS.get().and_then(|secrets| secrets.redact(text.as_bytes())) {
        Some(clean) => Cow::Owned(String::from_utf8_lossy(&clean).into_owned()),
        None => Cow::Borrowed(text),
    }
}

/// The bytes without the secrets of this process; `None` where they hold none.
pub fn conceal_bytes(text: &[u8]) -> Option<Vec<u8>> {
    PROCESS.get().and_then(|secrets| secrets.redact(text))
}

/// Recognises secrets. Not printable: it holds them.
struct Redactor {
    /// Every twelve characters in a row of every form of a secret, in lower case.
    windows: HashSet<[u8; WINDOW]>,
    /// Forms that are shorter than that, whole.
    short: Vec<Vec<u8>>,
    /// Whether a form holds these two characters in a row where a window begins, in lower case.
    pairs: Box<[bool]>,
    /// Whether a form holds these two characters in a row at any place, in any case.
    held: Box<[bool]>,
}

impl fmt::Debug for Redactor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Redactor").finish_non_exhaustive()
    }
}

impl Redactor {
    fn new<'a>(secrets: impl IntoIterator<Item = &'a str>) -> Self {
        let mut redactor = Self {
            windows: HashSet::new(),
            short: Vec::new(),
            pairs: vec![false; 1 << 16].into(),
            held: vec![false; 1 << 16].into(),
        };
        for secret in secrets.into_iter().filter(|secret| secret.len() >= SHORTEST) {
            for form in forms(secret) {
                redactor.add(form.to_ascii_lowercase().as_bytes());
            }
        }
        redactor
    }

    fn add(&mut self, form: &[u8]) {
        for held in form.windows(2) {
            let cases = |byte: u8| [byte, byte.to_ascii_uppercase()];
            for first in cases(held[0]) {
                for second in cases(held[1]) {
                    self.held[pair(&[first, second])] = true;
                }
            }
        }
        if form.len() < WINDOW {
            self.pairs[pair(form)] = true;
            return self.short.push(form.to_vec());
        }
        for window in form.windows(WINDOW) {
            self.pairs[pair(window)] = true;
            if let Ok(window) = window.try_into() {
                self.windows.insert(window);
            }
        }
    }

    /// The text without secrets; `None` where it holds none.
    fn redact(&self, text: &[u8]) -> Option<Vec<u8>> {
        let (mut clean, mut kept, mut at) = (Vec::new(), 0, 0);
        while at + SHORTEST <= text.len() {
            // A form that begins at one of the next places holds the last pair of them.
            if !self.held[pair(&text[at + PAIRS - 1..])] {
                at += PAIRS;
                continue;
            }
            let last = (at + PAIRS - 1).min(text.len() - SHORTEST);
            let found = (at..=last).find_map(|from| Some((from, self.found(&text[from..])?)));
            let Some((from, length)) = found else {
                at = last + 1;
                continue;
            };
            clean.extend_from_slice(&text[kept..from]);
            clean.extend_from_slice(STAND_IN.as_bytes());
            at = from + length;
            kept = at;
        }
        if kept == 0 {
            return None;
        }
        clean.extend_from_slice(&text[kept..]);
        Some(clean)
    }

    /// How many bytes a secret, or a part of one, takes at the beginning of a text.
    fn found(&self, text: &[u8]) -> Option<usize> {
        let lower = |at: usize| text[at].to_ascii_lowercase();
        if !self.pairs[pair(&[lower(0), lower(1)])] {
            return None;
        }
        let is_window = |at: usize| {
            let window = text
                .get(at..at + WINDOW)
                .and_then(|window| <[u8; WINDOW]>::try_from(window).ok());
            window.is_some_and(|window| {
                self.windows
                    .contains(&window.map(|byte| byte.to_ascii_lowercase()))
            })
        };
        if is_window(0) {
            // Further windows that overlap belong to it.
            let more = (1..).take_while(|at| is_window(*at)).count();
            return Some(WINDOW + more);
        }
        let is_here = |form: &&Vec<u8>| {
            text.get(..form.len())
                .is_some_and(|start| start.eq_ignore_ascii_case(form))
        };
        self.short.iter().find(is_here).map(Vec::len)
    }
}

fn pair(text: &[u8]) -> usize {
    usize::from(text[0]) << 8 | usize::from(text[1])
}

/// The ways in which a secret may be written.
fn forms(secret: &str) -> Vec<String> {
    let bytes = secret.as_bytes();
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    let every: String = bytes.iter().map(|byte| format!("%{byte:02x}")).collect();
    let reserved: String = bytes
        .iter()
        .map(|byte| match byte {
            byte if byte.is_ascii_alphanumeric() || b"-_.~".contains(byte) => char::from(*byte).to_string(),
            byte => format!("%{byte:02x}"),
        })
        .collect();
    let mut forms = vec![secret.to_owned(), hex, every, reserved];
    for before in 0..3 {
        // The bytes before a secret shift its encoding, and the search omits the symbols that it shares with
        // neighbours.
        let shifted = [&[0][..].repeat(before), bytes].concat();
        let encoded = STANDARD_NO_PAD.encode(&shifted);
        let first = [0, 2, 3][before];
        let last = shifted.len() / 3 * 4;
        if let Some(own) = encoded.get(first..last.max(first)) {
            forms.push(own.to_owned());
            forms.push(own.replace('+', "-").replace('/', "_"));
        }
    }
    forms.retain(|form| form.len() >= SHORTEST);
    forms
}

#[cfg(test)]
mod tests {
    use base64::engine::general_purpose::{STANDARD, URL_SAFE};
    use proptest::prelude::*;

    use super::*;

    const KEY: &str = "sk-Proj/7Qx+2mN8vB5kL1pR9sT4w";

    fn without(text: &str) -> String {
        let redactor = Redactor::new([KEY, "short-pw"]);
        match redactor.redact(text.as_bytes()) {
            Some(clean) => String::from_utf8(clean).unwrap(),
            None => text.to_owned(),
        }
    }

    #[test]
    fn a_secret_is_found_in_every_form() {
        let hex: String = KEY.bytes().map(|byte| format!("{byte:02X}")).collect();
        let percent = KEY.replace('/', "%2F").replace('+', "%2B");
        for (form, left) in [
            (KEY.to_owned(), "[key]"),
            (KEY.to_uppercase(), "[key]"),
            (KEY.to_lowercase(), "[key]"),
            (hex, "[key]"),
            (percent, "[key]"),
            (KEY.bytes().map(|byte| format!("%{byte:02x}")).collect(), "[key]"),
            (KEY[..KEY.len() - 1].to_owned(), "[key]"),
            (KEY[1..].to_owned(), "[key]"),
            (KEY[..WINDOW].to_owned(), "[key]"),
            ("short-pw".to_owned(), "[key]"),
            ("SHORT-PW".to_owned(), "[key]"),
        ] {
            assert_eq!(without(&form), left, "{form}");
            assert_eq!(without(&format!("a {form}, b {form}.")), "a [key], b [key].");
        }
        for before in ["", "B", "Be", "Bearer ", "user:"] {
            for encoded in [
                STANDARD.encode(format!("{before}{KEY}")),
                URL_SAFE.encode(format!("{before}{KEY}\n")),
            ] {
                let clean = without(&encoded);
                assert!(clean.contains("[key]"), "{before}: {clean}");
                assert!(clean.len() < "[key]".len() + 16, "{before}: {clean}");
            }
        }
    }

    /// Looks at each place of the text.
    fn redact_slowly(redactor: &Redactor, text: &[u8]) -> Vec<u8> {
        let (mut clean, mut at) = (Vec::new(), 0);
        while at < text.len() {
            let found = (at + SHORTEST <= text.len()).then(|| redactor.found(&text[at..]));
            match found.flatten() {
                Some(length) => {
                    clean.extend_from_slice(STAND_IN.as_bytes());
                    at += length;
                }
                None => {
                    clean.push(text[at]);
                    at += 1;
                }
            }
        }
        clean
    }

    #[test]
    fn no_place_of_a_text_is_passed_over() {
        let redactor = Redactor::new([KEY, "short-pw", "12345678"]);
        let forms: Vec<String> = [KEY, "short-pw", "12345678"]
            .into_iter()
            .flat_map(forms)
            .collect();
        let pieces = (0..forms.len(), 0..40_usize, 0..60_usize, "[ -~é]{0,20}");
        let texts = proptest::collection::vec(pieces, 0..6);
        proptest!(|(pieces in texts)| {
            let mut text = Vec::new();
            for (form, from, length, between) in pieces {
                let form = forms[form].as_bytes();
                let from = from.min(form.len());
                text.extend_from_slice(&form[from..(from + length).min(form.len())]);
                text.extend_from_slice(between.as_bytes());
            }
            let quick = redactor.redact(&text).unwrap_or_else(|| text.clone());
            prop_assert_eq!(quick, redact_slowly(&redactor, &text));
        });
    }

    #[test]
    fn other_texts_stay_as_they_are() {
        for text in [
            "",
            "sk-Proj",
            "status: succeeded",
            &KEY[..WINDOW - 1],
            "short-p",
            "é\u{fffd}sk",
        ] {
            assert_eq!(without(text), text);
        }
        assert_eq!(Redactor::new(["s", "1234567"]).redact(b"s 1234567 s"), None);
    }
}
