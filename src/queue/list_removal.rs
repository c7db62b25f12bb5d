//! Looking for a job in the line of those that wait, which may be of any length.

use super::BrokerError;
use crate::connection::Connection;

/// Ids that one command reads.
const WINDOW: isize = 2000;
/// Searches for one id before it counts as missing: other workers can move it during a search.
const LOOKS: usize = 3;

/// The end of a list that holds the newest job of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NewestEnd {
    Head,
    Tail,
}

/// Distance of `id` from the newest end of the list, or -1. The scan starts at the newest end: claims pop the oldest
/// ids, so they cannot shift an id past the scan; concurrent pushes only make some ids appear twice. `look` counts
/// from 0.
pub(super) async fn look_for(
    connection: &Connection,
    list: &str,
    newest: NewestEnd,
    id: &str,
    look: usize,
) -> Result<isize, BrokerError> {
    if look >= LOOKS {
        return Ok(-1);
    }
    let mut seen = 0;
    loop {
        let mut pipeline = redis::pipe();
        match newest {
            NewestEnd::Head => pipeline.lrange(list, seen, seen + WINDOW - 1),
            NewestEnd::Tail => pipeline.lrange(list, -seen - WINDOW, -seen - 1),
        };
        let (mut ids,): (Vec<Vec<u8>>,) = connection.query(&pipeline).await?;
        if newest == NewestEnd::Tail {
            ids.reverse();
        }
        if let Some(position) = ids.iter().position(|other| other == id.as_bytes()) {
            return Ok(seen.saturating_add_unsigned(position));
        }
        if ids.len() < WINDOW.unsigned_abs() {
            return Ok(-1);
        }
        seen += WINDOW;
    }
}
