//! The scripts of the layouts: how one is put together from its files, and how Redis's SLOWLOG names it.

use super::{Layout, apalis, bullmq};

/// Names scripts: `NAME = "operation.lua";`, `common.lua` of their folder in front of the files that are named.
macro_rules! scripts {
    ($($name:ident = $($file:literal),+;)*) => {
        $(
            pub(super) static $name: std::sync::LazyLock<redis::Script> = std::sync::LazyLock::new(|| {
                redis::Script::new(concat!(include_str!("common.lua"), $(include_str!($file)),+))
            });
        )*

        /// All of them, by name.
        pub(in crate::queue) fn named() -> Vec<(&'static str, &'static redis::Script)> {
            vec![$((stringify!($name), &*$name)),*]
        }
    };
}
pub(super) use scripts;

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
