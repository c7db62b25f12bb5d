//! The names that a fleet in a Redis Cluster may use: all of them carry its hash tag.

use super::{QueueSpec, queue_list::parse_prefix, reader::EnvReader, vars};
use crate::{
    keys::{KeyNamespace, slot_of},
    queue::Layout,
};

/// Reads the fleet's tag, with or without its braces.
pub(super) fn namespace(env: &mut EnvReader<'_>) -> KeyNamespace {
    let tag = env.optional(&vars::REDIS_CLUSTER_TAG, |text| {
        let tag = text
            .strip_prefix('{')
            .and_then(|tag| tag.strip_suffix('}'))
            .unwrap_or(text);
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        match (1..=50).contains(&tag.len()) && tag.bytes().all(is_plain) {
            true => Ok(KeyNamespace::tagged(tag)),
            false => Err("up to 50 letters, digits, `-`, `_` and `.`, such as app".to_owned()),
        }
    });
    tag.unwrap_or_default()
}

/// Reads the prefix of BullMQ's keys. In a cluster it carries the tag.
pub(super) fn bullmq_prefix(env: &mut EnvReader<'_>, namespace: &KeyNamespace) -> String {
    if let Some(tag) = namespace.tag().filter(|_| !env.is_set(&vars::BULLMQ_PREFIX)) {
        return tag.to_owned();
    }
    let prefix = env.parse(&vars::BULLMQ_PREFIX, parse_prefix);
    if let Some(tag) = namespace.tag().filter(|_| !namespace.holds(&prefix)) {
        let fault = format!(
            "lies in another slot than REDIS_CLUSTER_TAG, whose scripts work on one slot: set it to {tag}, here and in the \
             producers' `prefix`"
        );
        env.complain::<()>(&vars::BULLMQ_PREFIX, &fault);
    }
    prefix
}

/// Refuses queues of the apalis layout whose names carry another tag.
pub(super) fn check_queues(env: &mut EnvReader<'_>, namespace: &KeyNamespace, queues: &[QueueSpec]) {
    let Some(tag) = namespace.tag() else { return };
    for queue in queues.iter().filter(|queue| queue.layout == Layout::Apalis) {
        if Some(slot_of(&namespace.of_queue(&queue.name))) != namespace.slot()
            || has_other_tag(namespace, &queue.name)
        {
            let fault = format!(
                "names the queue {:?} with another tag than REDIS_CLUSTER_TAG: leave the tag out, and enqueue into {tag}:<queue>",
                queue.name
            );
            env.complain::<()>(&vars::QUEUES, &fault);
        }
    }
}

fn has_other_tag(namespace: &KeyNamespace, queue: &str) -> bool {
    queue.contains('{') && !namespace.holds(queue)
}
