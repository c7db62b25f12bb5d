//! The reason of a failed job, as students and operators read it.
//!
//! The web API shows a failed job's reason on the student's phone unchanged. So each reason starts with a sentence
//! that a student understands; the technical part for the operator follows. This module is the one place that decides
//! the sentence, by the class of the failure.

use crate::{FailureClass, JobType};

/// The sentence for a job whose replicas died while they ran it. `src/queue/poison_count.lua` repeats it: a test compares
/// them.
pub const LOST: &str = "The job could not be finished.";

/// The sentence for the student. `kind` is the job's type, where its payload could be read.
pub const fn student_sentence(class: FailureClass, kind: Option<JobType>) -> &'static str {
    match class {
        FailureClass::Transient => "The service is temporarily unavailable; please try again later.",
        FailureClass::RateLimited | FailureClass::Blocked => "The service is busy; please try again later.",
        FailureClass::OverAllowance => "Your usage exceeds your monthly allowance.",
        FailureClass::OutOfQuota | FailureClass::Deployment | FailureClass::OverBudget => {
            "The service is not available at the moment; please try again later."
        }
        FailureClass::Cancelled => LOST,
        FailureClass::Permanent => match kind {
            Some(kind) => kind.failure_sentence(),
            None => "The request could not be processed.",
        },
    }
}

/// A reason for `failedReason`: the sentence for the student, then the technical part.
pub fn failed_reason(class: FailureClass, kind: Option<JobType>, details: &str) -> String {
    format!("{} {details}", student_sentence(class, kind))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_starts_with_one_sentence() {
        let kinds = JobType::ALL.into_iter().map(Some).chain([None]);
        for (class, kind) in FailureClass::ALL
            .into_iter()
            .flat_map(|class| kinds.clone().map(move |kind| (class, kind)))
        {
            let sentence = student_sentence(class, kind);
            assert!(
                sentence.ends_with('.') && sentence.matches('.').count() == 1,
                "{sentence}"
            );
            // A student knows none of these words.
            for word in [
                "openai", "azure", "redis", "breaker", "quota", "payload", "provider", "429",
            ] {
                assert!(!sentence.to_lowercase().contains(word), "{sentence}");
            }
        }
        assert_eq!(
            failed_reason(
                FailureClass::Permanent,
                Some(JobType::GenerateFlashcards),
                "openai answered 400"
            ),
            "The study material could not be turned into flashcards. openai answered 400"
        );
    }
}
