//! The names that a fleet in a Redis Cluster may use: all of them carry its hash tag.

use super::{QueueSpec, queue_list::parse_prefix, reader::EnvReader, vars};
use crate::{keys::KeyNamespace, queue::Layout};

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
    let is_elsewhere = |queue: &&QueueSpec| {
        queue.layout == Layout::Apalis && queue.name.contains('{') && !namespace.holds(&queue.name)
    };
    for queue in queues.iter().filter(is_elsewhere) {
        let fault = format!(
            "names the queue {:?} with another tag than REDIS_CLUSTER_TAG: leave the tag out, and enqueue into {tag}<queue>",
            queue.name
        );
        env.complain::<()>(&vars::QUEUES, &fault);
    }
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret as _;

    use super::super::{Config, ConfigError};

    fn read(pairs: &[(&str, &str)]) -> Result<Config, ConfigError> {
        Config::from_lookup(|name| {
            let value = pairs.iter().find(|(known, _)| *known == name);
            value.map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn a_tag_names_everything() {
        for tag in ["app", "{app}"] {
            let config = read(&[
                ("REDIS_URL", "rediss://u:p%2C@a:1,[::1]:2,c/"),
                ("REDIS_CLUSTER_TAG", tag),
            ])
            .unwrap();
            assert_eq!(config.redis.url().expose_secret(), "rediss://u:p%2C@a:1/");
            assert_eq!(config.bullmq_prefix, "{app}");
            assert_eq!(config.redis.namespace().prefix(), "{app}");
        }
        let config = read(&[
            ("REDIS_CLUSTER_TAG", "app"),
            ("BULLMQ_PREFIX", "bull{app}"),
            ("QUEUES", "cards,{app}images"),
        ]);
        assert_eq!(config.unwrap().bullmq_prefix, "bull{app}");
        assert_eq!(read(&[]).unwrap().bullmq_prefix, "bull");
    }

    #[test]
    fn names_of_other_slots_are_refused_with_the_cure() {
        for (name, value, part) in [
            ("BULLMQ_PREFIX", "bull", "set it to {app}"),
            ("BULLMQ_PREFIX", "{other}", "set it to {app}"),
            ("QUEUES", "{other}cards", "enqueue into {app}<queue>"),
            ("REDIS_URL", "redis://h:1/2", "only number 0"),
            ("REDIS_URL", "redis+sentinel://h:1/main", "unset the tag"),
        ] {
            let refused = read(&[("REDIS_CLUSTER_TAG", "app"), (name, value)]).unwrap_err();
            let told = refused.to_string();
            assert!(
                told.contains(name) && told.contains(part),
                "{name}={value}: {told}"
            );
        }
    }
}
