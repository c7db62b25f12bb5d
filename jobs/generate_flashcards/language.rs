//! Decides whether two languages are the same, by the names and tags that people write.
//!
//! The study app hands over what its form holds: names (`English`, `English (UK)`), tags (`en-GB`, `en_US`), or a
//! language's own name (`Deutsch`). Regions and scripts do not count: a student of British English whose own language
//! is English needs definitions, not translations.

use std::{collections::HashMap, sync::LazyLock};

use unicode_normalization::{UnicodeNormalization, char::is_combining_mark};

/// ISO 639-1 code, ISO 639-2/3 codes and names of the languages that people study, in lower case.
///
/// Languages that are missing here compare by their spelling.
const LANGUAGES: &[&[&str]] = &[
    &["af", "afr", "afrikaans"],
    &["am", "amh", "amharic", "አማርኛ"],
    &[
        "ar",
        "ara",
        "arb",
        "arabic",
        "العربية",
        "عربي",
        "arabisch",
        "arabe",
        "arabo",
    ],
    &["az", "aze", "azerbaijani", "azeri", "azərbaycanca"],
    &["be", "bel", "belarusian", "беларуская"],
    &["bg", "bul", "bulgarian", "български"],
    &["bn", "ben", "bengali", "bangla", "বাংলা"],
    &["bs", "bos", "bosnian", "bosanski"],
    &["ca", "cat", "catalan", "valencian", "català"],
    &["cs", "ces", "cze", "czech", "čeština", "česky"],
    &["cy", "cym", "wel", "welsh", "cymraeg"],
    &["da", "dan", "danish", "dansk"],
    &[
        "de",
        "deu",
        "ger",
        "german",
        "deutsch",
        "allemand",
        "alemán",
        "tedesco",
        "alemão",
        "немецкий",
        "德语",
    ],
    &["el", "ell", "gre", "greek", "ελληνικά"],
    &[
        "en",
        "eng",
        "english",
        "englisch",
        "inglés",
        "anglais",
        "inglese",
        "английский",
        "英语",
        "英語",
    ],
    &["eo", "epo", "esperanto"],
    &[
        "es",
        "spa",
        "spanish",
        "castilian",
        "español",
        "castellano",
        "spanisch",
        "espagnol",
        "spagnolo",
        "espanhol",
        "испанский",
        "西班牙语",
    ],
    &["et", "est", "estonian", "eesti"],
    &["eu", "eus", "baq", "basque", "euskara"],
    &["fa", "fas", "per", "persian", "farsi", "dari", "فارسی"],
    &["fi", "fin", "finnish", "suomi"],
    &["tl", "fil", "tgl", "filipino", "tagalog"],
    &[
        "fr",
        "fra",
        "fre",
        "french",
        "français",
        "französisch",
        "francés",
        "francese",
        "французский",
        "法语",
    ],
    &["ga", "gle", "irish", "gaeilge"],
    &["gl", "glg", "galician", "galego"],
    &["gu", "guj", "gujarati", "ગુજરાતી"],
    &["ha", "hau", "hausa"],
    &["he", "iw", "heb", "hebrew", "עברית"],
    &["hi", "hin", "hindi", "हिन्दी", "हिंदी"],
    &["hr", "hrv", "croatian", "hrvatski"],
    &["ht", "hat", "haitian", "haitian creole"],
    &["hu", "hun", "hungarian", "magyar"],
    &["hy", "hye", "arm", "armenian", "հայերեն"],
    &["id", "in", "ind", "indonesian", "bahasa indonesia"],
    &["is", "isl", "ice", "icelandic", "íslenska"],
    &["it", "ita", "italian", "italiano", "italienisch", "italien"],
    &[
        "ja",
        "jp",
        "jpn",
        "japanese",
        "日本語",
        "japanisch",
        "japonés",
        "japonais",
        "giapponese",
        "日语",
    ],
    &["ka", "kat", "geo", "georgian", "ქართული"],
    &["kk", "kaz", "kazakh", "қазақша"],
    &["km", "khm", "khmer", "cambodian", "ខ្មែរ"],
    &["kn", "kan", "kannada", "ಕನ್ನಡ"],
    &[
        "ko",
        "kr",
        "kor",
        "korean",
        "한국어",
        "koreanisch",
        "coreano",
        "coréen",
        "한국말",
    ],
    &["la", "lat", "latin", "latina"],
    &["lo", "lao", "ລາວ"],
    &["lt", "lit", "lithuanian", "lietuvių"],
    &["lv", "lav", "latvian", "latviešu"],
    &["mk", "mkd", "mac", "macedonian", "македонски"],
    &["ml", "mal", "malayalam", "മലയാളം"],
    &["mn", "mon", "mongolian", "монгол"],
    &["mr", "mar", "marathi", "मराठी"],
    &["ms", "msa", "may", "malay", "bahasa melayu"],
    &["my", "mya", "bur", "burmese", "မြန်မာ"],
    &["ne", "nep", "nepali", "नेपाली"],
    &[
        "nl",
        "nld",
        "dut",
        "dutch",
        "flemish",
        "nederlands",
        "vlaams",
        "niederländisch",
        "holländisch",
        "holandés",
        "neerlandés",
        "néerlandais",
        "olandese",
    ],
    &[
        "no",
        "nb",
        "nn",
        "nor",
        "nob",
        "nno",
        "norwegian",
        "norwegian bokmål",
        "bokmål",
        "nynorsk",
        "norsk",
    ],
    &["pa", "pan", "punjabi", "panjabi", "ਪੰਜਾਬੀ"],
    &[
        "pl", "pol", "polish", "polski", "polnisch", "polaco", "polonais", "polacco",
    ],
    &["ps", "pus", "pashto", "پښتو"],
    &[
        "pt",
        "por",
        "portuguese",
        "brazilian",
        "português",
        "portugiesisch",
        "portugais",
        "portoghese",
    ],
    &["ro", "mo", "ron", "rum", "romanian", "moldovan", "română"],
    &[
        "ru",
        "rus",
        "russian",
        "русский",
        "russisch",
        "ruso",
        "russe",
        "russo",
    ],
    &["si", "sin", "sinhala", "sinhalese", "සිංහල"],
    &["sk", "slk", "slo", "slovak", "slovenčina"],
    &["sl", "slv", "slovenian", "slovene", "slovenščina"],
    &["so", "som", "somali", "soomaali"],
    &["sq", "sqi", "alb", "albanian", "shqip"],
    &["sr", "srp", "serbian", "српски", "srpski"],
    &[
        "sv",
        "swe",
        "swedish",
        "svenska",
        "schwedisch",
        "sueco",
        "suédois",
    ],
    &["sw", "swa", "swahili", "kiswahili"],
    &["ta", "tam", "tamil", "தமிழ்"],
    &["te", "tel", "telugu", "తెలుగు"],
    &["th", "tha", "thai", "ไทย", "ภาษาไทย"],
    &["tr", "tur", "turkish", "türkçe", "türkisch", "turco", "turc"],
    &["uk", "ukr", "ukrainian", "українська", "ukrainisch", "ucraniano"],
    &["ur", "urd", "urdu", "اردو"],
    &["uz", "uzb", "uzbek", "o'zbek"],
    &["vi", "vie", "vietnamese", "tiếng việt"],
    &["yo", "yor", "yoruba"],
    &["yue", "cantonese", "粵語", "广东话"],
    &[
        "zh",
        "cn",
        "zho",
        "chi",
        "cmn",
        "chinese",
        "mandarin",
        "中文",
        "汉语",
        "漢語",
        "普通话",
        "chinesisch",
        "chino",
        "chinois",
        "cinese",
        "chinês",
        "简体中文",
        "繁體中文",
        "繁体中文",
        "國語",
        "国语",
        "华语",
    ],
    &["zu", "zul", "zulu", "isizulu"],
];

/// Returns true if both texts name one language, whatever its region, script and spelling.
pub(super) fn is_same(one: &str, other: &str) -> bool {
    canonical(one) == canonical(other)
}

/// Returns true if a text names a language at all. Forms send such words where nothing was chosen.
pub(super) fn is_given(text: &str) -> bool {
    !["null", "undefined", "none", "n/a", "-"].contains(&text.to_lowercase().as_str())
}

/// The code of a known language; the text itself in lower case, without its region, for any other.
fn canonical(text: &str) -> String {
    let text = plain(text).replace('_', "-");
    // "English (UK)", "English, British", "English / US", "English: US": the language comes first.
    let first = text
        .split(['(', '（', '[', ',', '/', ';', ':', '|', '–', '—'])
        .next();
    let name = first.unwrap_or_default();
    let name = name.split_whitespace().collect::<Vec<_>>().join(" ");
    let primary_tag = name.split('-').next().unwrap_or_default().trim();
    let known = code_of(&name)
        .or_else(|| code_of(primary_tag))
        // "British English", "Brazilian Portuguese", "Mandarin Chinese": an adjective and a name, in either order.
        .or_else(|| name.split([' ', '-']).rev().find_map(name_of));
    known.map_or(name, str::to_owned)
}

/// In lower case and without accents, which keyboards lack: `espanol`.
fn plain(text: &str) -> String {
    let letters = text.nfd().filter(|c| !is_combining_mark(*c));
    letters.flat_map(char::to_lowercase).collect()
}

static CODES: LazyLock<HashMap<String, &'static str>> = LazyLock::new(|| {
    let codes = LANGUAGES.iter().filter_map(|names| Some((names.first()?, names)));
    codes
        .flat_map(|(code, names)| names.iter().map(move |name| (plain(name), *code)))
        .collect()
});

fn code_of(name: &str) -> Option<&'static str> {
    CODES.get(name).copied()
}

/// The code of a word that is a language's name. Codes do not count: too many are words, such as "in" and "no". Nor
/// does Latin, which is a part of "Latin American Spanish".
fn name_of(word: &str) -> Option<&'static str> {
    (word.chars().count() > 3 && word != "latin").then(|| code_of(word))?
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn names_tags_and_spellings_of_one_language_are_the_same() {
        for same in [
            ["English", "en-GB"],
            ["English (UK)", "en_US"],
            ["english", " EN "],
            ["British English", "American English"],
            ["English - United States", "eng"],
            ["Español", "es-419"],
            ["Spanish (Latin America)", "spa"],
            ["Deutsch", "German"],
            ["Brazilian Portuguese", "pt-PT"],
            ["Português (Brasil)", "Portuguese"],
            ["Chinese (Simplified)", "zh-Hant-TW"],
            ["Mandarin Chinese", "中文"],
            ["Latin American Spanish", "Spanish Latin America"],
            ["Norwegian Bokmål", "nn-NO"],
            ["Farsi", "fa-IR"],
            ["Filipino", "tl"],
            ["Klingon", "klingon (Qo'noS)"],
            ["english", "English (United Kingdom)"],
            ["Englisch", "Inglés"],
            ["English: British", "English – UK"],
            ["espanol", "Spanisch"],
            ["Espan\u{303}ol", "Español"],
            ["Francais", "fr-CA"],
            ["Portugués", "Português do Brasil"],
            ["zh-Hans", "Chinese (Simplified)"],
            ["简体中文", "中文（繁體）"],
            ["Russisch", "русский"],
            ["Polnisch", "pl_PL.UTF-8"],
        ] {
            assert!(is_same(same[0], same[1]), "{same:?}");
        }
    }

    #[test]
    fn different_languages_differ() {
        for different in [
            ["English", "Spanish"],
            ["en-GB", "de"],
            ["German", "en"],
            ["no", "Indonesian"],
            ["Klingon", "Dothraki"],
            ["Cantonese", "Mandarin"],
            ["Haitian Creole", "French"],
            ["Serbian", "Croatian"],
            ["Latin", "Latin American Spanish"],
            ["zh-Hans", "ja"],
        ] {
            assert!(!is_same(different[0], different[1]), "{different:?}");
        }
    }

    #[test]
    fn each_name_stands_once_and_in_lower_case() {
        let mut seen = HashSet::new();
        for name in LANGUAGES.iter().copied().flatten() {
            assert_eq!(name.to_lowercase(), **name);
            assert!(seen.insert(plain(name)), "{name} stands twice");
        }
    }
}
