//! URLs that name several nodes of a cluster: `redis://user:password@host:7000,host:7001/`.

use super::sentinels::host;
use crate::connection::Node;

const DEFAULT_PORT: u16 = 6379;

/// The URL of the first node, and the further nodes.
pub(super) fn apart(text: &str) -> Result<(String, Vec<Node>), String> {
    let whole = || Ok((text.to_owned(), Vec::new()));
    let Some((scheme, rest)) = text.split_once("://") else {
        return whole();
    };
    let end = rest.find(['/', '?', ' ', '"', '\'']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    let (user, hosts) = match authority.rsplit_once('@') {
        Some((user, hosts)) => (format!("{user}@"), hosts),
        None => (String::new(), authority),
    };
    let Some((first, further)) = hosts.split_once(',') else {
        return whole();
    };
    let further: Option<Vec<Node>> = further.split(',').map(|text| host(text, DEFAULT_PORT)).collect();
    let further = further.ok_or_else(|| {
        "hosts with their ports, such as redis://default:password@host1:7000,host2:7000".to_owned()
    })?;
    Ok((format!("{scheme}://{user}{first}{path}"), further))
}
