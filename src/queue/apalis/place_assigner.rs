//! Jobs that wait get their places in the fair line (`../fair_line.lua`): a claim gives a few, this gives the others.

use async_trait::async_trait;

use super::{ApalisBroker, TaskEnvelope, scripts};
use crate::{
    connection::Connection,
    keys::ApalisKeys,
    queue::{
        BrokerError, PayloadField,
        fair::{LARGEST_PAYLOAD, PLACES_CHUNK, PlaceAssigner, owner_of},
    },
};

impl ApalisBroker {
    /// The payload field that names a job's owner, as the scripts take it.
    pub(super) fn fairness(&self) -> &str {
        self.options.fairness.as_ref().map_or("", PayloadField::as_str)
    }

    /// The script that gives jobs their places.
    pub(super) fn places(&self) -> ApalisPlaces {
        ApalisPlaces {
            connection: self.connection.clone(),
            keys: self.keys.clone(),
            fairness: self.options.fairness,
        }
    }
}

/// Gives jobs their places, beside what the broker does.
#[derive(Debug, Clone)]
pub(super) struct ApalisPlaces {
    connection: Connection,
    keys: ApalisKeys,
    fairness: Option<PayloadField>,
}

impl ApalisPlaces {
    fn key(&self) -> &str {
        self.fairness.as_ref().map_or("", PayloadField::as_str)
    }
}

#[async_trait]
impl PlaceAssigner for ApalisPlaces {
    async fn give_some(&self, known: Option<(Vec<u8>, String)>) -> Result<(bool, Vec<u8>), BrokerError> {
        let keys = &self.keys;
        let mut call = scripts::ASSIGN_PLACES.prepare_invoke();
        call.key(&keys.active)
            .key(&keys.data)
            .key(&keys.scheduled)
            .key(&keys.fair);
        call.arg(self.key()).arg(PLACES_CHUNK).arg(&keys.meta_prefix);
        if let Some((id, owner)) = known {
            call.arg(id).arg(owner);
        }
        Ok(self.connection.invoke(&call).await?)
    }

    async fn owner(&self, id: &[u8]) -> Result<String, BrokerError> {
        let mut pipeline = redis::pipe();
        pipeline.cmd("HSTRLEN").arg(&self.keys.data).arg(id);
        let (size,): (u64,) = self.connection.query(&pipeline).await?;
        if size > LARGEST_PAYLOAD {
            return Ok(String::new());
        }
        let mut pipeline = redis::pipe();
        pipeline.hget(&self.keys.data, id);
        let (payload,): (Option<Vec<u8>>,) = self.connection.for_large()?.query(&pipeline).await?;
        let task = payload.unwrap_or_default();
        let data = serde_json::from_slice::<TaskEnvelope<'_>>(&task).map(|envelope| envelope.data.get());
        Ok(owner_of(data.unwrap_or_default().as_bytes(), self.key()))
    }
}
