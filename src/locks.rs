//! Locks that outlive a panic.

use std::sync::{Mutex, MutexGuard};

/// Takes a lock, also after a panic under it: no update under these locks leaves a value half written.
pub(crate) fn locked<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
