//! Jobs that wait get their places in the fair line (`../fair_line.lua`): a claim gives a few, this gives the others.

use async_trait::async_trait;

use super::{BullmqBroker, scripts};
use crate::{
    connection::Connection,
    queue::{
        BrokerError, PayloadField,
        fair::{LARGEST_PAYLOAD, PLACES_CHUNK, PlaceAssigner, owner_of},
    },
};

impl BullmqBroker {
    /// The payload field that names a job's owner, as the scripts take it.
    pub(super) fn fairness(&self) -> &str {
        self.options.fairness.as_ref().map_or("", PayloadField::as_str)
    }

    /// The script that gives jobs their places.
    pub(super) fn places(&self) -> BullmqPlaces {
        BullmqPlaces {
            connection: self.connection.clone(),
            prefix: self.keys.prefix.clone(),
            fairness: self.options.fairness,
        }
    }
}

/// Gives jobs their places, beside what the broker does.
#[derive(Debug, Clone)]
pub(super) struct BullmqPlaces {
    connection: Connection,
    prefix: String,
    fairness: Option<PayloadField>,
}

impl BullmqPlaces {
    fn key(&self) -> &str {
        self.fairness.as_ref().map_or("", PayloadField::as_str)
    }
}

#[async_trait]
impl PlaceAssigner for BullmqPlaces {
    async fn give_some(&self, known: Option<(Vec<u8>, String)>) -> Result<(bool, Vec<u8>), BrokerError> {
        let mut call = scripts::ASSIGN_PLACES.prepare_invoke();
        call.key(&self.prefix).arg(self.key()).arg(PLACES_CHUNK);
        if let Some((id, owner)) = known {
            call.arg(id).arg(owner);
        }
        Ok(self.connection.invoke(&call).await?)
    }

    async fn owner(&self, id: &[u8]) -> Result<String, BrokerError> {
        let mut pipeline = redis::pipe();
        let key = [self.prefix.as_bytes(), id].concat();
        pipeline.cmd("HSTRLEN").arg(&key).arg("data");
        let (size,): (u64,) = self.connection.query(&pipeline).await?;
        if size > LARGEST_PAYLOAD {
            return Ok(String::new());
        }
        let mut pipeline = redis::pipe();
        pipeline.hget(key, "data");
        let (payload,): (Option<Vec<u8>>,) = self.connection.for_large()?.query(&pipeline).await?;
        Ok(owner_of(&payload.unwrap_or_default(), self.key()))
    }
}
