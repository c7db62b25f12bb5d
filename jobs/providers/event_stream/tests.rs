use proptest::prelude::*;

use super::*;

/// The events of a stream that arrives in these chunks.
fn events<'a>(chunks: impl IntoIterator<Item = &'a [u8]>) -> Vec<String> {
    let (mut reader, mut events) = (EventReader::default(), Vec::new());
    let mut consume = |event: &str| {
        events.push(event.to_owned());
        ControlFlow::Continue(())
    };
    for chunk in chunks {
        assert!(reader.push(chunk, &mut consume).is_continue());
    }
    assert!(reader.finish(&mut consume).is_continue());
    events
}

#[test]
fn what_providers_send_is_read() {
    for (stream, expected) in [
        ("data: {\"a\":1}\n\ndata: [DONE]\n\n", vec!["{\"a\":1}", "[DONE]"]),
        ("data: 1\r\n\r\ndata: 2\r\n\r\n", vec!["1", "2"]),
        ("data: 1\r\rdata: 2\r\r", vec!["1", "2"]),
        ("\u{feff}data:1\n\n", vec!["1"]),
        (
            ": keep-alive\n\n: OPENROUTER PROCESSING\n\ndata: 1\n\n",
            vec!["1"],
        ),
        ("event: message\nid: 7\nretry: 10\ndata: 1\n\n", vec!["1"]),
        ("data: {\ndata: \"a\":1}\n\n", vec!["{\n\"a\":1}"]),
        (
            "data: {\"a\":1}\ndata: {\"b\":2}\ndata: [DONE]\n",
            vec!["{\"a\":1}", "{\"b\":2}", "[DONE]"],
        ),
        ("{\"a\":1}\n{\"b\":2}\n", vec!["{\"a\":1}", "{\"b\":2}"]),
        ("data: 1", vec!["1"]),
        ("data\n\n", vec![""]),
        ("database: 1\n\n\n\n", vec![]),
        ("data:  two blanks\n\n", vec![" two blanks"]),
    ] {
        assert_eq!(events([stream.as_bytes()]), expected, "{stream:?}");
        let bytes: Vec<&[u8]> = stream.as_bytes().chunks(1).collect();
        assert_eq!(events(bytes), expected, "{stream:?}, byte by byte");
    }
    assert_eq!(events([b"data: a\xff\xc3\n\n".as_slice()]), ["a\u{fffd}\u{fffd}"]);
}

#[test]
fn nothing_is_read_behind_the_end() {
    let (mut reader, mut seen) = (EventReader::default(), 0);
    let flow = reader.push(b"data: [DONE]\n\ndata: 1\n\n", &mut |_: &str| {
        seen += 1;
        ControlFlow::Break(())
    });
    assert!(flow.is_break() && seen == 1);
}

proptest! {
    /// Cuts do not matter, not even inside of a character or between CR and LF.
    #[test]
    fn any_cut_gives_the_same_events(
        stream in r"(data: ?|: |id: |\{)?[\PC é\r\n]{0,40}(\r\n|\n|\r|\n\n|\r\n\r\n)(data: [a-zé]{0,9}(\n\n|\r\n\r\n|\r\r|\n)){0,6}",
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..12),
    ) {
        let bytes = stream.as_bytes();
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
        cuts.sort_unstable();
        let ends = cuts.iter().copied().chain([bytes.len()]);
        let mut from = 0;
        let chunks: Vec<&[u8]> = ends.map(|end| &bytes[std::mem::replace(&mut from, end)..end]).collect();
        prop_assert_eq!(events(chunks), events([bytes]));
    }
}
