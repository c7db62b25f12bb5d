//! The names of all scripts, as operators see them beside Redis's SLOWLOG.

use super::{Layout, apalis, bullmq, partial_results};
use crate::script;

/// The scripts of both layouts, as `<layout> <operation>`, and those that both share, as `queue <operation>`: each with the names that identify it in Redis's SLOWLOG.
pub fn script_names() -> Vec<(String, String)> {
    let all = [
        (Layout::Bullmq, bullmq::scripts::named()),
        (Layout::Apalis, apalis::scripts::named()),
    ];
    let named = all.into_iter().flat_map(|(layout, scripts)| {
        scripts
            .into_iter()
            .map(move |(name, script)| (format!("{layout} {}", name.to_ascii_lowercase()), script))
    });
    let mut names = script::logged_names(named);
    names.push((
        "queue show_parts".to_owned(),
        partial_results::SHOW.get_hash().to_owned(),
    ));
    names
}

/// The libraries of the scripts that run as functions.
#[cfg(test)]
pub(crate) fn library_codes() -> Vec<String> {
    let all = [bullmq::scripts::named(), apalis::scripts::named()];
    let scripts = all.into_iter().flatten();
    scripts.filter_map(|(_, script)| script.library_code()).collect()
}
