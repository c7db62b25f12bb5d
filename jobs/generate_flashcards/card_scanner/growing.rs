//! The cards in a text that still grows. Each is found once it is whole, and no text is scanned from its start again.
//!
//! A decision that depends on the end of the text waits until the text has gone on. An answer that is encoded twice, and
//! one whose beginning cannot be told from reasoning, is left to the scan of the whole text.

use std::ops::ControlFlow;

use super::{
    CardScanner, MOST_ENCODINGS, RawCard, ScanState,
    reasoning::REASONING_TAGS,
    syntax::{has_escaped_quotes, is_padding},
};

/// Share (1 in 8) by which an undecided text grows before it is scanned again. So the time of all scans stays proportional
/// to the length of the text, however it is cut.
const GROWTH: usize = 8;

/// A scan of a growing text.
#[derive(Default)]
pub(in super::super) struct GrowingScan {
    text: String,
    begun: bool,
    state: ScanState,
    /// Length of the text at which it is scanned next.
    look_at: usize,
}

/// Where an answer begins.
enum Beginning {
    /// At this place, if the text holds an answer.
    At(usize),
    /// The text is too short to tell.
    Unknown,
    /// It is not scanned before it is whole.
    Never,
}

impl GrowingScan {
    /// Adds to the text, and hands each card that is whole now to `consume`.
    pub(in super::super) fn push(&mut self, added: &str, consume: &mut dyn FnMut(RawCard)) {
        if self.state.is_done {
            return;
        }
        self.text.push_str(added);
        if self.text.len() < self.look_at {
            return;
        }
        if !self.begun {
            match beginning(&self.text) {
                Beginning::At(at) => (self.begun, self.state.at) = (true, at),
                Beginning::Unknown => return self.wait_for_more(0),
                Beginning::Never => {
                    self.state.is_done = true;
                    return self.text.clear();
                }
            }
        }
        let mut consume = |card| {
            consume(card);
            ControlFlow::Continue(())
        };
        let mut scanner = CardScanner::new(&self.text, &mut self.state, &mut consume, MOST_ENCODINGS);
        scanner.grows = true;
        scanner.run();
        self.wait_for_more(self.state.at);
    }

    /// Waits for more text: the part from `from` on cannot be decided yet.
    fn wait_for_more(&mut self, from: usize) {
        let undecided = self.text.len() - from;
        self.look_at = self.text.len() + undecided / GROWTH;
    }
}

/// Where the answer begins in a text that still grows.
fn beginning(text: &str) -> Beginning {
    let mut rest = text.trim_start_matches(is_padding);
    loop {
        let at = text.len() - rest.len();
        if REASONING_TAGS.iter().any(|(open, _)| is_cut_tag(rest, open)) {
            return Beginning::Unknown;
        }
        let tag = REASONING_TAGS.iter().find(|(open, _)| {
            rest.get(..open.len())
                .is_some_and(|start| start.eq_ignore_ascii_case(open))
        });
        if let Some((_, close)) = tag {
            match super::reasoning::find(rest, close) {
                Some(end) => rest = rest[end + close.len()..].trim_start_matches(is_padding),
                None => return Beginning::Unknown,
            }
            continue;
        }
        return match rest.chars().next() {
            Some('{' | '[') => of_json(rest, at),
            Some('`') => of_fence(rest, at),
            Some('"') => Beginning::Never,
            // Prose may be reasoning whose opening tag is missing. A fence is not.
            Some(_) => match rest.find("```") {
                Some(fence) => of_fence(&rest[fence..], at + fence),
                None => Beginning::Unknown,
            },
            None => Beginning::Unknown,
        };
    }
}

/// Returns true if a text may be the beginning of a tag.
fn is_cut_tag(text: &str, tag: &str) -> bool {
    !text.is_empty()
        && text.len() < tag.len()
        && tag
            .get(..text.len())
            .is_some_and(|start| start.eq_ignore_ascii_case(text))
}

fn of_json(json: &str, at: usize) -> Beginning {
    match json.contains('"') {
        _ if has_escaped_quotes(json) => Beginning::Never,
        true => Beginning::At(at),
        // JSON with other quotes than these is rare, and its first scan can wait.
        false => Beginning::Unknown,
    }
}

fn of_fence(text: &str, at: usize) -> Beginning {
    let Some((line, inside)) = text.split_once('\n') else {
        return Beginning::Unknown;
    };
    let inside = inside.trim_start_matches(|c| is_padding(c) || c == '`');
    match inside.chars().next() {
        Some('"') => Beginning::Never,
        Some('{' | '[') => match of_json(inside, 0) {
            Beginning::At(_) => Beginning::At(at + line.len()),
            other => other,
        },
        Some(_) => Beginning::At(at + line.len()),
        None => Beginning::Unknown,
    }
}
