//! The cards of a deck that is still being written, for the student who waits for it.
//!
//! The deck itself is read from the whole answer, which may drop a card of the preview, or change its topic. A fast answer
//! has no preview, and costs nothing for one.

use std::{convert::Infallible, time::Duration};

use serde_json::Value;
use tokio::time::sleep;

use super::{
    Payload,
    card_scanner::growing::GrowingScan,
    deck::{DeckBuilder, DeckRules},
};
use crate::{ProviderGuard, chat_answer::parts::decoded, providers::answer_stream::ArrivingAnswer};

/// Shortest time between two reports, and between the start of the call and the first one.
const SHOW_EVERY: Duration = Duration::from_secs(1);
/// How often the answer is looked at when the last look has found no card.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// Progress at the start of the call, and once all cards are there, percent.
const PROGRESS: (usize, usize) = (10, 95);

/// Reports the cards of an answer while it arrives. The caller drops it when the answer is there.
pub(super) async fn follow(
    payload: &Payload,
    guard: &dyn ProviderGuard,
    arriving: &ArrivingAnswer,
) -> Infallible {
    sleep(LOOK_EVERY).await;
    arriving.watch();
    sleep(SHOW_EVERY - LOOK_EVERY).await;
    let mut preview = DeckPreview::new(payload);
    let mut shown = 0;
    loop {
        preview.take(&arriving.text_from(preview.read));
        if preview.cards() == shown {
            sleep(LOOK_EVERY).await;
            continue;
        }
        shown = preview.cards();
        guard.show_parts(&|| preview.to_json()).await;
        guard.progress(preview.percent()).await;
        sleep(SHOW_EVERY).await;
    }
}

/// The cards that are whole so far.
pub(super) struct DeckPreview {
    builder: DeckBuilder,
    scan: GrowingScan,
    /// Bytes of the escaped text that were read.
    read: usize,
    to_write: usize,
    /// The deck has no more cards than these. Further ones are spare: progress counts them, and no client is told.
    most_cards: usize,
}

impl DeckPreview {
    pub(super) fn new(payload: &Payload) -> Self {
        Self {
            builder: DeckBuilder::new(DeckRules::of(payload)),
            scan: GrowingScan::default(),
            read: 0,
            to_write: payload.to_write(),
            most_cards: payload.most_cards(),
        }
    }

    /// Takes the next part of the answer's text, in the escaped form of a JSON string.
    pub(super) fn take(&mut self, escaped: &str) {
        self.read += escaped.len();
        if let Some(text) = decoded(escaped).filter(|text| !text.is_empty()) {
            self.scan.push(&text, &mut |card| self.builder.add(card));
        }
    }

    pub(super) fn cards(&self) -> usize {
        self.builder.cards().len()
    }

    fn to_json(&self) -> String {
        let cards = self.builder.cards().iter().take(self.most_cards);
        let cards = cards.map(serde_json::to_value);
        Value::Array(cards.filter_map(Result::ok).collect()).to_string()
    }

    fn percent(&self) -> u8 {
        let (first, last) = PROGRESS;
        let percent = first + (last - first) * self.cards() / self.to_write.max(1);
        u8::try_from(percent.min(last)).unwrap_or(u8::MAX)
    }
}
