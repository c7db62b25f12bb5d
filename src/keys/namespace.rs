//! The hash tag that keeps all keys of a fleet in one slot of a Redis Cluster.

use std::sync::Arc;

/// Number of slots of a cluster.
const SLOTS: u16 = 16_384;

/// The part in front of all names of a fleet in a cluster; empty elsewhere.
///
/// A script works on the keys of one slot only, and the worker's scripts touch a queue, its ledger and the books
/// together. So each name gets the fleet's tag: `{app}spend:day:…`. No colon follows it, because `{app}:` is in front of the
/// keys of BullMQ queues. Without a tag all names stay as they are.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct KeyNamespace(Option<Arc<str>>);

impl KeyNamespace {
    /// Names with the tag `{tag}`.
    pub fn tagged(tag: &str) -> Self {
        Self(Some(format!("{{{tag}}}").into()))
    }

    /// Returns true if names carry a tag, which means that Redis is a cluster.
    pub const fn is_tagged(&self) -> bool {
        self.0.is_some()
    }

    /// The part in front of each name.
    pub fn prefix(&self) -> &str {
        self.0.as_deref().unwrap_or_default()
    }

    /// The tag in its braces.
    pub fn tag(&self) -> Option<&str> {
        self.0.as_deref()
    }

    /// The fleet's own name for a key.
    pub fn named(&self, name: &str) -> String {
        format!("{}{name}", self.prefix())
    }

    /// The name of an apalis queue, as its producers know it. A name that carries the tag stays as it is.
    pub fn of_queue(&self, queue: &str) -> String {
        match self.holds(queue) {
            true => queue.to_owned(),
            false => self.named(queue),
        }
    }

    /// Returns true if a key of this name lies in the fleet's slot.
    pub fn holds(&self, name: &str) -> bool {
        self.0
            .as_deref()
            .is_none_or(|prefix| hashed(prefix) == hashed(name))
    }

    /// A key of the slot that never exists. While the slot moves to another node, Redis refuses each script that names
    /// it, because a key is missing there. No script sees half of a slot.
    pub(crate) fn guard(&self) -> Option<String> {
        self.is_tagged().then(|| self.named("slot-guard"))
    }

    /// Adds the guard to the keys of a script.
    pub(crate) fn guarded<'a>(&self, keys: impl IntoIterator<Item = &'a str>) -> Vec<String> {
        keys.into_iter().map(str::to_owned).chain(self.guard()).collect()
    }

    /// The fleet's slot.
    pub fn slot(&self) -> Option<u16> {
        self.0.as_deref().map(slot_of)
    }
}

/// The slot of a key.
pub fn slot_of(key: &str) -> u16 {
    crc16(hashed(key).as_bytes()) % SLOTS
}

/// The part of a key that decides about its slot: between the first `{` and the next `}`, where anything stands there.
fn hashed(key: &str) -> &str {
    let tag = key.split_once('{').and_then(|(_, rest)| rest.split_once('}'));
    tag.map(|(tag, _)| tag)
        .filter(|tag| !tag.is_empty())
        .unwrap_or(key)
}

/// CRC-16/XMODEM, as the specification of Redis Cluster has it.
fn crc16(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0, |crc, byte| {
        (0..8).fold(crc ^ (u16::from(*byte) << 8), |crc: u16, _| match crc & 0x8000 {
            0 => crc << 1,
            _ => (crc << 1) ^ 0x1021,
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The values are those of `CLUSTER KEYSLOT`.
    #[test]
    fn slots_are_those_of_redis() {
        assert_eq!(crc16(b"123456789"), 0x31C3);
        assert_eq!(slot_of("foo"), 12_182);
        assert_eq!(slot_of("{foo}:bar"), 12_182);
        assert_eq!(slot_of("ledger:{foo}:bar:{x}"), 12_182);
        assert_eq!(hashed("{}foo"), "{}foo");
        assert_eq!(hashed("a{b"), "a{b");
    }

    #[test]
    fn names_change_in_a_cluster_only() {
        let plain = KeyNamespace::default();
        assert_eq!(plain.named("spend:reserved"), "spend:reserved");
        assert_eq!(plain.of_queue("q"), "q");
        assert_eq!((plain.slot(), plain.guard()), (None, None));
        let tagged = KeyNamespace::tagged("app");
        assert_eq!(tagged.tag(), Some("{app}"));
        assert_eq!(tagged.named("spend:reserved"), "{app}spend:reserved");
        assert_eq!(tagged.of_queue("q"), "{app}q");
        assert_eq!(tagged.of_queue("{app}q"), "{app}q");
        assert!(tagged.holds("bull{app}:q"));
        assert!(!tagged.holds("bull:q"));
        assert_eq!(tagged.slot(), Some(slot_of("app")));
    }
}
