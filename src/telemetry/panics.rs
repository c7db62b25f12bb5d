//! Panics in the log and in a job's reason: where the code gave up, without the data that it worked on.
//!
//! The message of a panic may quote a student's text (`byte index 5 is not a char boundary of …`). Only a message that
//! is written in the source is shown.

use std::{any::Any, backtrace, cell::RefCell, panic};

use tokio::task::JoinError;
use tracing::error;

thread_local! {
    /// Where this thread panicked last: the payload of a caught panic does not tell.
    static LAST_PLACE: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Logs each panic from now on, instead of printing it to stderr.
pub fn init() {
    panic::set_hook(Box::new(|info| {
        let place = info.location().map(ToString::to_string);
        let backtrace = backtrace::Backtrace::capture();
        let backtrace = (backtrace.status() == backtrace::BacktraceStatus::Captured).then_some(backtrace);
        let backtrace = backtrace.as_ref().map(tracing::field::display);
        let place_text = place.as_deref().unwrap_or("an unknown place");
        error!(backtrace, "panic at {place_text}: {}", message(info.payload()));
        LAST_PLACE.set(place);
    }));
}

/// Describes a panic that was caught on the thread where it happened.
pub fn describe(payload: &(dyn Any + Send)) -> String {
    match LAST_PLACE.take() {
        Some(place) => format!("{} (at {place})", message(payload)),
        None => message(payload).to_owned(),
    }
}

/// Describes why a task has ended early.
pub fn describe_end(ended: JoinError) -> String {
    match ended.try_into_panic() {
        Ok(payload) => format!("panic: {}", describe(&*payload)),
        Err(_cancelled) => "it was cancelled".to_owned(),
    }
}

fn message(payload: &(dyn Any + Send)) -> &'static str {
    payload
        .downcast_ref::<&'static str>()
        .copied()
        .unwrap_or("the message is withheld because it may quote a payload")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_that_quotes_data_is_withheld() {
        let text = "die Sonnenfinsternis".to_owned();
        let quoting = panic::catch_unwind(|| panic!("cannot cut {text:?}")).unwrap_err();
        assert!(!describe(&*quoting).contains("Sonne"));
        let literal = panic::catch_unwind(|| panic!("no deck was built")).unwrap_err();
        assert!(describe(&*literal).starts_with("no deck was built"));
    }

    #[tokio::test]
    async fn a_task_that_panics_is_described_without_its_data() {
        let ended = tokio::spawn(async { panic!("{}", "geheim".repeat(2)) }).await;
        let text = describe_end(ended.unwrap_err());
        assert!(text.starts_with("panic: ") && !text.contains("geheim"), "{text}");
    }
}
