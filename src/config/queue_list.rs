//! The value of `QUEUES`: the queues to serve.

use jobs::JobType;

use crate::queue::Layout;

/// A queue to serve.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueueSpec {
    /// How it is laid out.
    pub layout: Layout,
    /// Its name.
    pub name: String,
    /// Jobs at a time.
    pub concurrency: usize,
}

/// `[layout:]name[=concurrency]`, separated by commas, or as a JSON list.
pub(super) fn parse_queues(text: &str, concurrency: usize) -> Result<Vec<QueueSpec>, String> {
    let mut queues: Vec<QueueSpec> = Vec::new();
    let list = text
        .strip_prefix('[')
        .and_then(|list| list.strip_suffix(']'))
        .unwrap_or(text);
    let entries = list
        .split([',', ';', '\n'])
        .map(|entry| entry.trim().trim_matches(['"', '\'']).trim());
    for entry in entries.filter(|entry| !entry.is_empty()) {
        let (name, concurrency) = match entry.split_once('=') {
            Some((name, number)) => {
                let number = number.trim().parse().ok().filter(|n| (1..=10_000).contains(n));
                (
                    name,
                    number.ok_or_else(|| format!("{entry:?}: the concurrency must be from 1 to 10000"))?,
                )
            }
            None => (entry, concurrency),
        };
        let (layout, name) = match name.split_once(':') {
            Some((layout, name)) => (
                // The name keeps its case.
                layout
                    .trim()
                    .to_ascii_lowercase()
                    .parse()
                    .map_err(|e| format!("{entry:?}: {e}"))?,
                name.trim(),
            ),
            None => (Layout::Apalis, name.trim()),
        };
        let name = check_queue_name(name).map_err(|fault| format!("{entry:?}: {fault}"))?;
        if queues.iter().any(|q| q.layout == layout && q.name == name) {
            return Err(format!("{entry:?} is there twice"));
        }
        queues.push(QueueSpec {
            layout,
            name,
            concurrency,
        });
    }
    if queues.is_empty() {
        Err("at least one queue".to_owned())
    } else {
        Ok(queues)
    }
}

/// Checks the name of a queue.
pub(crate) fn check_queue_name(name: &str) -> Result<String, String> {
    match name.is_empty() || name.contains(':') {
        true => Err("a queue's name is not empty and holds no colon".to_owned()),
        false => Ok(name.to_owned()),
    }
}

/// Checks a prefix of BullMQ's keys. It stands in the names of clients and in patterns of the ACL.
pub(super) fn parse_prefix(text: &str) -> Result<String, String> {
    let is_plain = |byte: u8| byte.is_ascii_graphic() && !b"*?[]\\^\"'".contains(&byte);
    match text.len() <= 100 && !text.ends_with(':') && text.bytes().all(is_plain) && !text.is_empty() {
        true => Ok(text.to_owned()),
        false => Err(
            "up to 100 printable ASCII characters without spaces, quotes and * ? [ ] \\ ^, and without the colon that BullMQ puts behind it"
                .to_owned(),
        ),
    }
}

/// The value of `QUEUES` where it is not set: the queue of each job type, in every layout.
pub(crate) fn default_queues() -> String {
    let mut queues = Vec::new();
    for layout in Layout::ALL {
        for kind in JobType::ALL {
            let queue = format!("{layout}:{}", kind.default_queue());
            // Job types can share a queue.
            if !queues.contains(&queue) {
                queues.push(queue);
            }
        }
    }
    queues.join(",")
}
