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

/// `[layout:]name[=concurrency]`, separated by commas.
pub(super) fn parse_queues(text: &str, concurrency: usize) -> Result<Vec<QueueSpec>, String> {
    let mut queues: Vec<QueueSpec> = Vec::new();
    for entry in text.split(',').map(str::trim).filter(|entry| !entry.is_empty()) {
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
                layout.parse().map_err(|e| format!("{entry:?}: {e}"))?,
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
