//! The most that a call uses at the deployment that it goes to.

use std::sync::atomic::Ordering;

use super::{Deployment, OpenAi};
use crate::{
    CallUsage, CalledService, ProviderCall,
    providers::{dialect::Dialect, models::ModelRequest},
};

impl OpenAi {
    /// The same call as it is made at the deployment with this place: its estimates name the model that is asked there, and
    /// the model that takes over if that one is found to be gone.
    ///
    /// The handler has estimated the call for the model of the first deployment.
    pub fn at_deployment(&self, call: &ProviderCall, place: usize, service: &CalledService) -> ProviderCall {
        let mut call = ProviderCall {
            service: service.clone(),
            ..call.clone()
        };
        let Some(deployment) = self.deployments.get(place) else {
            return call;
        };
        let known = deployment.dialect.here();
        let is_gone = known.and_then(Dialect::into_successor);
        if is_gone.is_none() {
            let successor = deployment.successor.as_ref();
            call.successor_estimate = successor.map(|successor| of_model(&call.estimate, successor));
        }
        if let Some(asked) = is_gone.or_else(|| deployment.renamed()) {
            call.estimated_tokens += asked.reasoning_room;
            call.estimate = of_model(&call.estimate, &asked);
        }
        call
    }
}

impl Deployment {
    /// The parameters of its model in place of those of the first deployment, where they differ. Their room for reasoning
    /// is what answers were seen to take beyond the caller's.
    pub(super) fn renamed(&self) -> Option<ModelRequest> {
        let seen = self.model.seen_reasoning.load(Ordering::Relaxed);
        let mut renamed = match (&self.renamed, self.is_first) {
            (Some(renamed), _) => renamed.clone(),
            // The caller has left the room that was seen at the first deployment.
            (None, true) => return None,
            (None, false) if seen <= self.model.room_of_caller => return None,
            (None, false) => self.model.beside_the_caller(self.model.request.clone()),
        };
        renamed.reasoning_room = renamed
            .reasoning_room
            .max(seen.saturating_sub(self.model.room_of_caller));
        Some(renamed)
    }
}

/// The usage of the same request to another model, with that model's room for reasoning beside the caller's.
fn of_model(usage: &CallUsage, asked: &ModelRequest) -> CallUsage {
    CallUsage {
        completion_tokens: usage.completion_tokens + asked.reasoning_room,
        ..usage.clone().of_model(&asked.model)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{
        ChatApi, OpenAiSettings, Provider,
        providers::{
            http::Transport,
            models::{ModelSuccessor, ModelTable, ReasoningEffort},
        },
    };

    fn settings(name: &str, model: &str, successor: ModelSuccessor) -> OpenAiSettings {
        OpenAiSettings {
            name: name.to_owned(),
            api: ChatApi::OpenAi,
            base_url: format!("https://{name}.example/v1").parse().unwrap(),
            key: "k".into(),
            model: model.to_owned(),
            reasoning: ReasoningEffort::Lowest,
            successor,
            models: ModelTable::built_in(),
            timeout: std::time::Duration::from_secs(1),
            idle_timeout: std::time::Duration::from_secs(1),
        }
    }

    #[test]
    fn a_call_is_estimated_for_the_model_that_its_deployment_asks() {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let first = settings("first", "gpt-4o-mini", ModelSuccessor::None);
        let others = [
            settings("nano", "gpt-5-nano", ModelSuccessor::None),
            settings(
                "old",
                "gpt-4o-mini",
                ModelSuccessor::Model("gpt-5-nano".to_owned()),
            ),
        ];
        let model = OpenAi::new(&Transport::new().unwrap(), &first, &others, None).unwrap();
        let call = ProviderCall::new(Provider::OpenAi, "chat")
            .with_estimated_tokens(3000)
            .estimating(CallUsage::tokens("gpt-4o-mini", 1000, 2000));
        let at = |place| {
            let service = CalledService::further(place, Arc::from("llm-x"));
            model.at_deployment(&call, place, &service)
        };
        let asked = at(0);
        assert_eq!(
            (&*asked.estimate.model, asked.estimated_tokens),
            ("gpt-4o-mini", 3000)
        );
        assert_eq!(asked.successor_estimate, None);
        let asked = at(1);
        assert_eq!(
            (
                &*asked.estimate.model,
                asked.estimate.completion_tokens,
                asked.estimated_tokens
            ),
            ("gpt-5-nano", 3024, 4024),
            "with room for the least reasoning of its model"
        );
        assert_eq!(asked.service.name(), "llm-x");
        let asked = at(2);
        assert_eq!(&*asked.estimate.model, "gpt-4o-mini");
        let successor = asked.successor_estimate.unwrap();
        assert_eq!(
            (&*successor.model, successor.completion_tokens),
            ("gpt-5-nano", 3024)
        );
        let gone = model.deployments[2].successor.clone().unwrap();
        model.deployments[2].dialect.set(&Dialect::with_successor(gone));
        let asked = at(2);
        assert_eq!(
            (&*asked.estimate.model, asked.successor_estimate),
            ("gpt-5-nano", None)
        );
    }
}
