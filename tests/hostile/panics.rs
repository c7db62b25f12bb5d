//! Panics that the worker is built to survive: those of a decoder that runs on a thread of its own.

use std::{
    cell::Cell,
    collections::HashSet,
    panic::{UnwindSafe, catch_unwind, set_hook, take_hook},
    sync::{Mutex, Once, PoisonError},
};

thread_local! {
    static CONTAINED: Cell<bool> = const { Cell::new(false) };
}

/// Runs what may panic; `None` when it does. Where it did is told, each place once.
pub fn contained<T>(work: impl FnOnce() -> T + UnwindSafe) -> Option<T> {
    static HOOK: Once = Once::new();
    // libFuzzer's own hook ends the process.
    HOOK.call_once(|| {
        let hook = take_hook();
        let told = Mutex::new(HashSet::new());
        set_hook(Box::new(move |panic| {
            let place = panic.location().map(ToString::to_string).unwrap_or_default();
            if !CONTAINED.get() {
                hook(panic);
            } else if told
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .insert(place.clone())
            {
                eprintln!("a panic that is contained, at {place}");
            }
        }));
    });
    CONTAINED.set(true);
    let outcome = catch_unwind(work);
    CONTAINED.set(false);
    outcome.ok()
}
