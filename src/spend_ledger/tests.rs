use jobs::ProviderReply;

use super::page::{read, written};

fn reply(tokens: Option<u64>) -> ProviderReply {
    ProviderReply {
        body: serde_json::from_str(
            "{\n  \"text\": \"zwölf = \\u0031 \u{1F600}\",\n  \"n\": [1, 2.50, null]\n}",
        )
        .unwrap(),
        tokens,
        is_cut: false,
    }
}

#[test]
fn an_answer_reads_as_it_was_written() {
    for tokens in [None, Some(0), Some(u64::MAX)] {
        assert_eq!(read(&written(&reply(tokens))), Some(reply(tokens)));
    }
}

#[test]
fn what_is_no_answer_reads_as_none() {
    for entry in [
        "", "=", "?w:1:0", "=- ", "=- {", "=x {}", "=-1 {}", "12 {}", "= {}",
    ] {
        assert_eq!(read(entry), None, "{entry:?}");
    }
}
