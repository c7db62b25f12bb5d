//! The demo's outage: OpenAI fails from the start, its breaker opens, and the second deployment takes the calls, as many as
//! its limit allows. Then OpenAI answers again, probes pass, the breaker closes, and OpenAI gets its calls back.

use std::{collections::HashMap, convert::Infallible, time::Duration};

use super::show::ProgressDisplay;
use crate::{
    gate::State,
    operator::Operator,
    simulator::{Fault, Provider, SimulatorHandle},
};

const LOOK_EVERY: Duration = Duration::from_millis(50);
/// How long the outage lasts once the breaker is open: long enough to be seen.
const OPEN_FOR_A_WHILE: Duration = Duration::from_millis(1500);

/// Makes OpenAI fail from now on.
pub(super) fn begin(simulator: &SimulatorHandle, stage: &ProgressDisplay) -> anyhow::Result<()> {
    simulator
        .faults()
        .on_match(Provider::OpenAi, "", Fault::status(503), None)?;
    stage
        .say("outage: openai answers 503 to everything; the deployment spare takes its calls, two at a time");
    Ok(())
}

/// Tells of every breaker that moves, and ends the outage once OpenAI's is open. Never ends by itself.
pub(super) async fn narrate(
    operator: &Operator,
    simulator: &SimulatorHandle,
    stage: &ProgressDisplay,
) -> Infallible {
    let mut known: HashMap<String, State> = HashMap::new();
    let mut over = false;
    loop {
        // A look that fails is made again: the whole show is bounded, not each look.
        for breaker in operator.breakers().await.unwrap_or_default() {
            let before = known
                .insert(breaker.name.clone(), breaker.state)
                .unwrap_or(State::Closed);
            if before != breaker.state {
                stage.say(&format!(
                    "circuit breaker {}: {before} → {}",
                    breaker.name, breaker.state
                ));
            }
            if !over && breaker.name == "openai" && breaker.state == State::Open {
                over = true;
                tokio::time::sleep(OPEN_FOR_A_WHILE).await;
                simulator.faults().clear();
                stage.say("openai answers again");
            }
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}
