//! The outcomes that an earlier run of this replica has left in the spool.

use std::sync::Arc;

use super::parts::broker_as;
use crate::{
    config::Config,
    connection::Connection,
    queue::OutcomeWriter,
    worker::outcome_spool::{OutcomeSpool, record::SpooledOutcome},
};

/// Writes spooled outcomes to the queues that this replica serves.
#[derive(Debug)]
pub(super) struct SpoolReplay {
    spool: OutcomeSpool,
    config: Config,
    connection: Connection,
}

impl SpoolReplay {
    pub(super) fn new(spool: OutcomeSpool, config: &Config, connection: &Connection) -> Self {
        Self {
            spool,
            config: config.clone(),
            connection: connection.clone(),
        }
    }

    pub(super) async fn run(&self) {
        self.spool.replay(|outcome| self.broker_of(outcome)).await;
    }

    /// The outcome's queue, in the name of the replica that claimed the job.
    fn broker_of(&self, outcome: &SpooledOutcome) -> Option<Arc<dyn OutcomeWriter>> {
        let mut specs = self.config.queues.iter();
        let spec = specs.find(|spec| spec.name == outcome.queue && spec.layout.as_str() == outcome.layout)?;
        let broker = broker_as(spec, &self.connection, &self.config, &outcome.worker);
        // Under another prefix a queue of this name is another one.
        let is_same = broker.ledger_key(&outcome.id) == outcome.ledger_key;
        is_same.then_some(broker as Arc<dyn OutcomeWriter>)
    }
}
