//! The names of all scripts, as operators see them beside Redis's SLOWLOG.

use super::{Layout, apalis, bullmq};

/// The scripts of both layouts, as `<layout> <operation>`, each with the SHA that identifies it in Redis's SLOWLOG.
pub fn script_names() -> Vec<(String, String)> {
    let all = [
        (Layout::Bullmq, bullmq::scripts::named()),
        (Layout::Apalis, apalis::scripts::named()),
    ];
    all.into_iter()
        .flat_map(|(layout, scripts)| scripts.into_iter().map(move |script| (layout, script)))
        .map(|(layout, (name, script))| {
            let name = format!("{layout} {}", name.to_ascii_lowercase());
            (name, script.get_hash().to_owned())
        })
        .collect()
}
