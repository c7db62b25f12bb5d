//! The scripts of the layouts: how one is put together from its files.

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
