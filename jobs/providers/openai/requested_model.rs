//! The model that the requests to a deployment name.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::{
    OpenAiSettings,
    providers::models::{ModelRequest, ModelSuccessor},
};

/// The model that requests name, and the one that they name when it is gone.
pub(super) struct RequestedModel {
    pub(super) request: ModelRequest,
    settings: OpenAiSettings,
    /// Tokens that the caller leaves for reasoning: those of the first deployment's model.
    pub(super) room_of_caller: u64,
    /// Tokens of reasoning that answers have taken, and a quarter more: a model may reason more than the table says.
    pub(super) seen_reasoning: AtomicU64,
}

/// Most room for reasoning that is left because an answer has taken it, tokens.
const MOST_SEEN_REASONING: u64 = 32_768;

impl RequestedModel {
    pub(super) fn new(settings: &OpenAiSettings, first: &OpenAiSettings) -> Self {
        let room_of_caller = first.models.request(&first.model, &first.reasoning);
        Self {
            request: settings.models.request(&settings.model, &settings.reasoning),
            settings: settings.clone(),
            room_of_caller: room_of_caller.reasoning_room,
            seen_reasoning: AtomicU64::new(0),
        }
    }

    /// The request of the successor of `gone`, where there is one.
    pub(super) fn successor(&self, gone: &str) -> Option<ModelRequest> {
        let settings = &self.settings;
        let name = match &settings.successor {
            ModelSuccessor::None => None,
            ModelSuccessor::Model(name) => Some(name.clone()),
            ModelSuccessor::Recommended => settings.models.retirement(&settings.base_url, gone)?.successor,
        };
        let name = name.filter(|name| name != gone)?;
        Some(self.beside_the_caller(settings.models.request(&name, &settings.reasoning)))
    }

    /// The same request, whose room for reasoning is what it takes beside the room that the caller leaves.
    pub(super) fn beside_the_caller(&self, mut request: ModelRequest) -> ModelRequest {
        request.reasoning_room = request.reasoning_room.saturating_sub(self.room_of_caller);
        request
    }

    pub(super) fn saw_reasoning(&self, tokens: u64) {
        let room = (tokens + tokens / 4).min(MOST_SEEN_REASONING);
        self.seen_reasoning.fetch_max(room, Ordering::Relaxed);
    }
}
