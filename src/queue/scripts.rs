//! Assembles the scripts of the layouts from their files.

use crate::script::Script;

/// Defines scripts: `NAME = "prelude.lua", "operation.lua";`, with the folder's `common.lua` in front.
///
/// The scripts that run for each job are marked `as function`: Redis loads them once, where it can.
macro_rules! scripts {
    ($layout:literal; $($name:ident $(as $kind:ident)? = $($file:literal),+;)*) => {
        $(
            pub(super) static $name: std::sync::LazyLock<crate::script::Script> = std::sync::LazyLock::new(|| {
                const FILES: &[&str] = &[include_str!("common.lua"), $(include_str!($file)),+];
                const KINDS: &[&str] = &[$(stringify!($kind))?];
                let name = concat!($layout, "_", stringify!($name)).to_ascii_lowercase();
                crate::queue::scripts::script(&name, FILES, !KINDS.is_empty())
            });
        )*

        /// All of them, by name.
        pub(in crate::queue) fn named() -> Vec<(&'static str, &'static crate::script::Script)> {
            vec![$((stringify!($name), &*$name)),*]
        }
    };
}
pub(super) use scripts;

/// Assembles a script from its files. The last one is the operation.
pub(super) fn script(name: &str, files: &[&str], is_function: bool) -> Script {
    match files.split_last() {
        Some((operation, preludes)) if is_function => Script::stored(name, &preludes.concat(), operation),
        _ => Script::new(&files.concat()),
    }
}
