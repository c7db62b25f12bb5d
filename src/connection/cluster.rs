//! Finds the node of a Redis Cluster that owns the fleet's slot.

use std::time::Duration;

use futures_util::{StreamExt as _, stream::FuturesUnordered};
use redis::{AsyncConnectionConfig, RedisError, Value, from_redis_value_ref};

use super::address::RedisAddress;

/// Host and port of a node.
pub type Node = (String, u16);

/// How long the nodes may take to answer, all of them together.
const LONGEST_SEARCH: Duration = Duration::from_secs(2);

/// The owner of a slot, and all nodes that were named.
#[derive(Debug)]
pub(super) struct SlotOwner {
    pub(super) node: Node,
    pub(super) nodes: Vec<Node>,
}

/// Asks all candidates at once. The node that more than half of them name owns the slot: a node that was cut off from the
/// others may still name an earlier owner. After the time limit the node that most answers name is taken.
pub(super) async fn find_owner(
    address: &RedisAddress,
    slot: u16,
    candidates: &[Node],
) -> Result<SlotOwner, RedisError> {
    let mut answers: FuturesUnordered<_> = candidates.iter().map(|node| ask(address, node, slot)).collect();
    let (mut named, mut nodes): (Vec<(Node, usize)>, Vec<Node>) = (Vec::new(), Vec::new());
    let mut refused = None;
    let search = async {
        while let Some(answer) = answers.next().await {
            let found = match answer {
                Ok(found) => found,
                Err(error) => {
                    refused = Some(error);
                    continue;
                }
            };
            nodes.extend(found.nodes);
            let votes = match named.iter_mut().find(|(node, _)| *node == found.node) {
                Some((_, votes)) => {
                    *votes += 1;
                    *votes
                }
                None => {
                    named.push((found.node, 1));
                    1
                }
            };
            if votes * 2 > candidates.len() {
                return;
            }
        }
    };
    // The answers that arrived in time count.
    let _ = tokio::time::timeout(LONGEST_SEARCH, search).await;
    nodes.sort();
    nodes.dedup();
    match named.into_iter().max_by_key(|(_, votes)| *votes) {
        Some((node, _)) => Ok(SlotOwner { node, nodes }),
        None => Err(refused
            .unwrap_or_else(|| RedisError::from((redis::ErrorKind::Io, "no node of the cluster answers")))),
    }
}

async fn ask(address: &RedisAddress, node: &Node, slot: u16) -> Result<SlotOwner, RedisError> {
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(LONGEST_SEARCH))
        .set_response_timeout(Some(LONGEST_SEARCH));
    let client = address.client_of(node)?;
    let mut socket = client
        .get_multiplexed_async_connection_with_config(&config)
        .await?;
    let slots: Result<Value, RedisError> = redis::cmd("CLUSTER").arg("SLOTS").query_async(&mut socket).await;
    match slots {
        Ok(slots) => owner_in(&slots, slot, &node.0),
        // A single server serves names with a tag as well.
        Err(error) if is_no_cluster(&error) => Ok(SlotOwner {
            node: node.clone(),
            nodes: vec![node.clone()],
        }),
        Err(error) => Err(error),
    }
}

/// Returns true if the server is no node of a cluster.
pub(super) fn is_no_cluster(error: &RedisError) -> bool {
    let words = error.detail().unwrap_or_default();
    words.contains("cluster support disabled") || words.starts_with("unknown command")
}

/// Reads `INFO cluster`.
pub(super) fn is_cluster(info: &str) -> bool {
    info.lines().any(|line| line.trim() == "cluster_enabled:1")
}

/// Reads `CLUSTER INFO`: slots on more than one node.
pub(super) fn has_several_nodes(info: &str) -> bool {
    let mut fields = info.lines().filter_map(|line| line.trim().split_once(':'));
    let size = fields.find(|(name, _)| *name == "cluster_size");
    size.and_then(|(_, size)| size.parse::<u32>().ok())
        .is_some_and(|size| size > 1)
}

/// The slots that have moved, as the errors of a call or a pipeline name them, each with its owner.
pub(super) fn moved(error: &RedisError) -> Vec<(u16, Option<Node>)> {
    let errors = error.clone().into_server_errors();
    let moved = errors
        .iter()
        .flat_map(|errors| errors.iter())
        .filter_map(|(_, error)| {
            let words = error.details().filter(|_| error.code() == "MOVED")?;
            let (slot, node) = words.split_once(' ')?;
            let (host, port) = node.split_whitespace().next()?.rsplit_once(':')?;
            let host = host.trim_matches(['[', ']']);
            // A node that does not know its own host names none.
            let node = port.parse().ok().filter(|_| !host.is_empty());
            Some((slot.parse().ok()?, node.map(|port| (host.to_owned(), port))))
        });
    moved.collect()
}

/// Reads the answer of `CLUSTER SLOTS`. A node that does not know its own host leaves it out: it is the one that was
/// asked.
fn owner_in(slots: &Value, slot: u16, asked: &str) -> Result<SlotOwner, RedisError> {
    let (mut owner, mut nodes) = (None, Vec::new());
    let ranges: Vec<Vec<Value>> = from_redis_value_ref(slots)?;
    for range in &ranges {
        let [first, last, members @ ..] = range.as_slice() else {
            continue;
        };
        let (first, last): (u16, u16) = (from_redis_value_ref(first)?, from_redis_value_ref(last)?);
        for (place, member) in members.iter().enumerate() {
            let fields: Vec<Value> = from_redis_value_ref(member)?;
            let [host, port, ..] = fields.as_slice() else {
                continue;
            };
            let host: Option<String> = from_redis_value_ref(host)?;
            let host = host.filter(|host| !host.is_empty() && host != "?");
            let node = (
                host.unwrap_or_else(|| asked.to_owned()),
                from_redis_value_ref(port)?,
            );
            if place == 0 && (first..=last).contains(&slot) {
                owner = Some(node.clone());
            }
            nodes.push(node);
        }
    }
    let unowned = || {
        let text = format!("no node of the cluster owns slot {slot}");
        RedisError::from(std::io::Error::other(text))
    };
    let node = owner.ok_or_else(unowned)?;
    Ok(SlotOwner { node, nodes })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_member_of_a_range_owns_its_slots() {
        let answer = b"*2\r\n*4\r\n:0\r\n:99\r\n*3\r\n$1\r\na\r\n:1\r\n$2\r\nid\r\n*3\r\n$1\r\nb\r\n:2\r\n$2\r\nid\r\n\
            *3\r\n:100\r\n:16383\r\n*3\r\n$0\r\n\r\n:3\r\n$2\r\nid\r\n";
        let slots = redis::parse_redis_value(answer).unwrap();
        let node = |name: &str, port| (name.to_owned(), port);
        assert_eq!(owner_in(&slots, 7, "c").unwrap().node, node("a", 1));
        let found = owner_in(&slots, 100, "c").unwrap();
        assert_eq!(found.node, node("c", 3));
        assert_eq!(found.nodes, [node("a", 1), node("b", 2), node("c", 3)]);
        assert!(owner_in(&redis::Value::Array(Vec::new()), 7, "c").is_err());
    }
}
