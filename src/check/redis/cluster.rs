//! A Redis Cluster, and the node that owns the fleet's slot.

use std::collections::HashMap;

use redis::RedisError;

use crate::{check::Finding, connection::Connection};

const CHECK: &str = "redis cluster";

/// The state of the cluster; `None` for a fleet whose names carry no tag.
pub(super) async fn look(connection: &Connection) -> Option<Finding> {
    let namespace = connection.namespace();
    let (tag, slot) = (namespace.tag()?, namespace.slot()?);
    let (owner, fields) = match state(connection).await {
        Ok(found) => found,
        Err(error) if error.to_string().contains("cluster support disabled") => {
            let found = format!("no cluster: a single server, where all names carry {tag}");
            return Some(Finding::ok(CHECK, found));
        }
        Err(error) => {
            let cure = "grant the ACL user +cluster|info and +info";
            return Some(Finding::warning(CHECK, error.to_string(), cure));
        }
    };
    let field = |name: &str| fields.get(name).map_or("?", String::as_str);
    let (state, size, replicas) = (
        field("cluster_state"),
        field("cluster_size"),
        field("connected_slaves"),
    );
    let found =
        format!("{state}: {size} primaries; {tag} is slot {slot}, of {owner}, with {replicas} replicas");
    Some(if state != "ok" {
        let cure = "have all slots served: redis-cli --cluster check <node>, then --cluster fix";
        Finding::failure(CHECK, found, cure)
    } else if replicas == "0" {
        let cure = "give each primary a replica: without one the fleet stands still while its node is away";
        Finding::warning(CHECK, found, cure)
    } else {
        Finding::ok(CHECK, found)
    })
}

async fn state(connection: &Connection) -> Result<(String, HashMap<String, String>), RedisError> {
    let owner = connection.server_address().await?;
    let mut ask = redis::pipe();
    ask.cmd("CLUSTER").arg("INFO");
    ask.cmd("INFO").arg("replication");
    let (cluster, replication): (String, String) = connection.query(&ask).await?;
    let lines = cluster.lines().chain(replication.lines());
    let pairs = lines.filter_map(|line| line.trim().split_once(':'));
    Ok((owner, pairs.map(|(k, v)| (k.to_owned(), v.to_owned())).collect()))
}
