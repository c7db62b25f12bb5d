//! One thing that goes wrong, and whether it can go wrong with a given provider.

use serde::{Deserialize, Serialize};

use super::{DeckFlaw, Provider, faults::MAX_PENDING};

/// One thing that goes wrong. As JSON: `{"kind":"status","status":503,"retry_after":2}`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Fault {
    /// This status instead of an answer.
    Status {
        /// 200–599.
        status: u16,
        /// `retry-after`, seconds.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        retry_after: Option<f64>,
        /// `retry-after-ms`, milliseconds.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        retry_after_ms: Option<u64>,
        /// The body; by default what the provider sends with this status.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        body: Option<String>,
    },
    /// 429 as the provider says it: OpenAI in its headers, Vision in the text, Speech without a time unless one
    /// is given here.
    RateLimit {
        /// Seconds to wait; 1 by default.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        retry_after: Option<f64>,
    },
    /// The account is used up: 429 `insufficient_quota` at OpenAI, 403 "Out of call volume quota" at Azure.
    Quota,
    /// The usual answer, late.
    Delay {
        /// Milliseconds.
        ms: u64,
    },
    /// The connection is reset (RST) before any answer.
    Reset,
    /// The usual answer, of which half the body arrives before the connection closes.
    CutBody,
    /// 200, and a body that is not JSON.
    Garbage,
    /// 502 with a page of HTML, as a proxy in between sends it.
    Html502,
    /// 500 with an empty body.
    Empty500,
    /// OpenAI: the model refuses.
    Refusal,
    /// OpenAI: the answer is withheld, `finish_reason` `content_filter`.
    ContentFilter,
    /// OpenAI: the answer is half, `finish_reason` `length`.
    Length,
    /// OpenAI: a deck of flashcards as a careless model writes it.
    Deck {
        /// The flaw of the deck.
        flaw: DeckFlaw,
    },
    /// OpenAI: the answer lacks `usage`.
    NoUsage,
    /// OpenAI: a request with this parameter is refused. One without it is answered as usual.
    RefuseParameter {
        /// Name of the parameter, such as `stream_options`.
        name: String,
    },
    /// OpenAI: the stream of the answer falls silent. The connection stays open.
    StreamSilence {
        /// Share of the stream that is sent before, percent.
        percent: u8,
    },
    /// OpenAI: the connection breaks in the middle of the stream.
    StreamBreak {
        /// Share of the stream that is sent before, percent.
        percent: u8,
    },
    /// OpenAI: the stream ends with an error instead of the rest of the answer.
    StreamError {
        /// Share of the stream that is sent before, percent.
        percent: u8,
    },
    /// Speech: 200 with this recognition status.
    Speech {
        /// The status.
        status: RecognitionFault,
    },
    /// Vision, Read 3.2: the operation that this request starts or polls fails, now and whenever it is polled. An
    /// image analysis goes well.
    OperationFailed {
        /// Code of the error; by default there is no error.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        code: Option<String>,
    },
    /// Vision, Read 3.2: the operation that this request starts or polls is not known, now and whenever it is
    /// polled. An image analysis goes well.
    OperationUnknown,
}

/// The ways in which Speech answers 200 without a recognition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum RecognitionFault {
    /// Speech, but no words of the language.
    NoMatch,
    /// Silence only.
    InitialSilenceTimeout,
    /// Noise only.
    BabbleTimeout,
    /// The service stumbled.
    Error,
}

impl RecognitionFault {
    /// Its value in `RecognitionStatus`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NoMatch => "NoMatch",
            Self::InitialSilenceTimeout => "InitialSilenceTimeout",
            Self::BabbleTimeout => "BabbleTimeout",
            Self::Error => "Error",
        }
    }
}

impl Fault {
    /// A bare status, with the provider's own body.
    pub const fn status(status: u16) -> Self {
        Self::Status {
            status,
            retry_after: None,
            retry_after_ms: None,
            body: None,
        }
    }

    /// The kind, as in its JSON.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Status { .. } => "status",
            Self::RateLimit { .. } => "rate_limit",
            Self::Quota => "quota",
            Self::Delay { .. } => "delay",
            Self::Reset => "reset",
            Self::CutBody => "cut_body",
            Self::Garbage => "garbage",
            Self::Html502 => "html502",
            Self::Empty500 => "empty500",
            Self::Refusal => "refusal",
            Self::ContentFilter => "content_filter",
            Self::Length => "length",
            Self::Deck { .. } => "deck",
            Self::NoUsage => "no_usage",
            Self::RefuseParameter { .. } => "refuse_parameter",
            Self::StreamSilence { .. } => "stream_silence",
            Self::StreamBreak { .. } => "stream_break",
            Self::StreamError { .. } => "stream_error",
            Self::Speech { .. } => "speech",
            Self::OperationFailed { .. } => "operation_failed",
            Self::OperationUnknown => "operation_unknown",
        }
    }

    /// Checks that the provider can fail in this way, with these numbers.
    pub(super) fn check(&self, provider: Provider) -> Result<(), FaultError> {
        let only = match self {
            Self::Refusal
            | Self::ContentFilter
            | Self::Length
            | Self::Deck { .. }
            | Self::NoUsage
            | Self::RefuseParameter { .. }
            | Self::StreamSilence { .. }
            | Self::StreamBreak { .. }
            | Self::StreamError { .. } => Provider::OpenAi,
            Self::Speech { .. } => Provider::AzureSpeech,
            Self::OperationFailed { .. } | Self::OperationUnknown => Provider::AzureVision,
            _ => provider,
        };
        if only != provider {
            return Err(FaultError::Misfit {
                kind: self.kind(),
                provider,
            });
        }
        match self {
            Self::StreamSilence { percent }
            | Self::StreamBreak { percent }
            | Self::StreamError { percent }
                if *percent > 100 =>
            {
                Err(FaultError::Percent(*percent))
            }
            Self::Status { status, .. } if !(200..600).contains(status) => Err(FaultError::Status(*status)),
            Self::Status {
                retry_after: Some(wait),
                ..
            }
            | Self::RateLimit {
                retry_after: Some(wait),
            } if !wait.is_finite() || *wait < 0.0 => Err(FaultError::Wait(*wait)),
            _ => Ok(()),
        }
    }
}

/// Why a fault cannot be set.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum FaultError {
    /// The provider cannot fail in this way.
    #[error("fault {kind:?} does not fit {provider}")]
    Misfit {
        /// Kind of the fault.
        kind: &'static str,
        /// The provider it was meant for.
        provider: Provider,
    },
    /// Not a final HTTP status.
    #[error("fault status {0} is not between 200 and 599")]
    Status(u16),
    /// Not a time to wait.
    #[error("retry_after {0} is not a number of seconds")]
    Wait(f64),
    /// Not a share of a stream.
    #[error("percent {0} is more than 100")]
    Percent(u8),
    /// The share of random faults is not between 0 and 1.
    #[error("share of random faults {0} is not between 0 and 1")]
    Share(f64),
    /// [`MAX_PENDING`] faults wait for this provider.
    #[error("too many faults wait for {0}, the limit is {MAX_PENDING}")]
    TooMany(Provider),
}
