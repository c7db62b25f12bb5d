//! Looking for a job in the line of those that wait, which may be of any length.

use super::BrokerError;
use crate::connection::Connection;

/// Ids that one command reads.
const WINDOW: isize = 2000;
/// Looks for one id, which may be moved meanwhile, before it counts as not there.
const LOOKS: usize = 3;

/// At which end of its list the newest job of a line stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Newest {
    Head,
    Tail,
}

/// How many newer ids stand before `id` in the list, -1 when it is not there. From the newest on, so that no claim moves
/// an id out of the way of this look; who joins the line meanwhile pushes some into it twice. `look` counts from 0.
pub(super) async fn look_for(
    connection: &Connection,
    list: &str,
    newest: Newest,
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
            Newest::Head => pipeline.lrange(list, seen, seen + WINDOW - 1),
            Newest::Tail => pipeline.lrange(list, -seen - WINDOW, -seen - 1),
        };
        let (mut ids,): (Vec<Vec<u8>>,) = connection.query(&pipeline).await?;
        if newest == Newest::Tail {
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
