use proptest::prelude::*;

use super::*;

#[test]
fn outer_punctuation_goes_and_a_terms_own_stays() {
    for (written, term) in [
        ("photosynthesis.", "photosynthesis"),
        (" \"la célula\" ", "la célula"),
        ("**mitosis**", "mitosis"),
        ("`code`", "code"),
        ("“Zelle”,", "Zelle"),
        ("„Zelle“", "Zelle"),
        ("« cellule »", "cellule"),
        ("「細胞」。", "細胞"),
        ("1. osmosis", "osmosis"),
        ("12) osmosis", "osmosis"),
        ("- osmosis", "osmosis"),
        ("# osmosis", "osmosis"),
        ("• osmosis:", "osmosis"),
        ("...osmosis...", "osmosis"),
        ("¡Hola!", "Hola"),
        ("(osmosis)", "osmosis"),
        ("(a) and (b)", "(a) and (b)"),
        ("(to) run", "(to) run"),
        ("run (verb)", "run (verb)"),
        ("C++", "C++"),
        ("C#", "C#"),
        (".NET", ".NET"),
        ("-itis", "-itis"),
        ("hyper-", "hyper-"),
        ("rock 'n' roll", "rock 'n' roll"),
        ("l'eau", "l'eau"),
        ("50 %", "50 %"),
        ("3D printing", "3D printing"),
        ("1.5 litres", "1.5 litres"),
        ("A\u{301}rbol", "Árbol"),
        ("<b>la célula</b>", "la célula"),
        ("<span class=\"x\">la</span> célula<br/>", "la célula"),
        ("R&amp;D", "R&D"),
        ("a < b", "a < b"),
        ("Term: la célula", "la célula"),
        ("TCP: handshake", "TCP: handshake"),
        ("🌱 la planta 🌱", "la planta"),
        ("la c&eacute;lula", "la célula"),
        ("l&apos;eau", "l'eau"),
        ("la c&#233;lula &amp; el n&#xFA;cleo", "la célula & el núcleo"),
        ("&lt;b&gt;la célula&lt;/b&gt;", "la célula"),
        ("AT&T", "AT&T"),
        ("the **cell**", "the cell"),
        ("la *célula* `madre`", "la célula madre"),
        ("2 * 3 * 4", "2 * 3 * 4"),
        ("2**3", "2**3"),
        ("$la célula$", "la célula"),
        ("细胞。", "细胞"),
        ("कोशिका।", "कोशिका"),
        ("خلية۔", "خلية"),
        ("բջիջ։", "բջիջ"),
        ("កោសិកា។", "កោសិកា"),
        ("ဆဲလ်။", "ဆဲလ်"),
        ("‹cellule›", "cellule"),
        ("《细胞》", "细胞"),
        ("【细胞】", "细胞"),
        ("（细胞）", "细胞"),
        ("→ la célula", "la célula"),
        ("▪ la célula", "la célula"),
        ("la célula‼", "la célula"),
        ("la célula /", "la célula"),
        ("(1) la célula", "la célula"),
        ("a) la célula", "la célula"),
        ("E. coli", "E. coli"),
        ("Zell\u{ad}kern", "Zellkern"),
        ("\u{200f}\u{2067}خلية\u{2069}", "خلية"),
    ] {
        assert_eq!(front(written).as_deref(), Ok(term), "{written}");
    }
}

#[test]
fn questions_and_long_sentences_are_not_terms() {
    for question in [
        "What is a cell?",
        "\"What is a cell?\"",
        "What is a cell",
        "¿Qué es una célula?",
        "細胞とは何ですか？",
        "ما هي الخلية؟",
        "Why do plants need light",
        "cell?.",
        "Τι είναι το κύτταρο;",
        "Τι είναι το κύτταρο\u{37e}",
        "Ինչ է՞ բջիջը",
        "ሕዋስ ምንድን ነው፧",
        "Qué es la célula",
        "Was ist eine Zelle",
        "Qu’est-ce que la cellule",
        "O que é uma célula",
        "Was ist Osmose? (Biologie)",
        "What's the cell made of",
        "Q: What is a cell",
    ] {
        assert_eq!(front(question), Err(UnsuitableTerm::Question), "{question}");
    }
    for sentence in [
        "The cell is the smallest unit of all life.",
        "植物は光と水と二酸化炭素から糖と酸素を作り出しています",
        &"x".repeat(101),
    ] {
        assert_eq!(front(sentence), Err(UnsuitableTerm::Sentence), "{sentence}");
    }
    for blank in ["", " ", "...", "\u{0}", "\"\"", "—", "?!"] {
        assert!(front(blank).is_err(), "{blank}");
    }
    for term in [
        "How are you",
        "Was ist los",
        "What's the matter",
        "What a day",
        "the rate at which an object moves downwards",
        "การสังเคราะห์ด้วยแสง",
        "光合作用",
        "Donaudampfschifffahrtsgesellschaft",
    ] {
        assert_eq!(front(term).as_deref(), Ok(term));
    }
}

#[test]
fn marks_under_marks_go_as_well() {
    assert_eq!(front("*`cell`:0").as_deref(), Ok("cell:0"));
    assert_eq!(front("**\"*cell*\"**").as_deref(), Ok("cell"));
}

proptest! {
    #[test]
    fn a_front_is_final(text in any::<String>()) {
        if let Ok(term) = front(&text) {
            prop_assert_eq!(front(&term), Ok(term));
        }
    }

    #[test]
    fn punctuation_around_a_term_goes(
        term in "[a-zé]{2,8}( [a-zé]{2,8}){0,3}", before in "[\"*_ ¡«,]{0,4}", after in "[\"*_ .!»,;:]{0,4}",
    ) {
        prop_assume!(!is_question(&term));
        prop_assert_eq!(front(&format!("{before}{term}{after}")), Ok(term));
    }
}
