//! Sends the events of a stream spread over a time, as a model writes them, and ends the stream as a fault says.

use std::{io, time::Duration};

use axum::{body::Body, response::Response};
use bytes::Bytes;
use futures_util::stream;
use tokio::time::Instant;

use super::{
    super::{Fault, journal::OpenRequest},
    SimulatedAnswer,
};

/// How a stream ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum StreamEnd {
    Whole,
    /// After this share, percent, nothing follows.
    Silence(u8),
    /// After this share the connection breaks.
    Break(u8),
    /// After this share an error follows.
    Error(u8),
}

impl StreamEnd {
    pub(super) const fn of(fault: Option<&Fault>) -> Self {
        match fault {
            Some(Fault::StreamSilence { percent }) => Self::Silence(*percent),
            Some(Fault::StreamBreak { percent }) => Self::Break(*percent),
            Some(Fault::StreamError { percent }) => Self::Error(*percent),
            _ => Self::Whole,
        }
    }

    const fn percent(self) -> usize {
        match self {
            Self::Whole => 100,
            Self::Silence(percent) | Self::Break(percent) | Self::Error(percent) => percent as usize,
        }
    }
}

/// One stream on its way. The request is in progress until it ends.
struct PacedStream {
    events: std::vec::IntoIter<Bytes>,
    begun: Instant,
    pause: Duration,
    sent: u32,
    end: Option<StreamEnd>,
    visit: Option<OpenRequest>,
    status: u16,
}

/// Sends the events one by one within `over`.
pub(super) fn respond(
    answer: SimulatedAnswer,
    visit: OpenRequest,
    over: Duration,
    end: StreamEnd,
) -> Response {
    let mut events = answer.events.clone();
    let pause = over / u32::try_from(events.len()).unwrap_or(u32::MAX).max(1);
    events.truncate(events.len() * end.percent() / 100);
    // A provider charges for what the model has written, whether the client is still there or not.
    visit.bill(answer.bill.as_deref().cloned());
    let state = PacedStream {
        events: events.into_iter(),
        begun: Instant::now(),
        pause,
        sent: 0,
        end: Some(end),
        visit: Some(visit),
        status: answer.status,
    };
    answer.respond(Body::from_stream(stream::unfold(state, async |mut state| {
        let item = state.next().await?;
        Some((item, state))
    })))
}

impl PacedStream {
    async fn next(&mut self) -> Option<io::Result<Bytes>> {
        if let Some(event) = self.events.next() {
            tokio::time::sleep_until(self.begun + self.pause * self.sent).await;
            self.sent += 1;
            return Some(Ok(event));
        }
        match self.end.take()? {
            StreamEnd::Whole => {}
            StreamEnd::Silence(_) => std::future::pending().await,
            StreamEnd::Break(_) => {
                // Lets hyper send what it has before it sees the error.
                tokio::task::yield_now().await;
                self.answer();
                return Some(Err(io::Error::new(
                    io::ErrorKind::ConnectionAborted,
                    "broken on purpose",
                )));
            }
            StreamEnd::Error(_) => {
                self.answer();
                let error = r#"{"error":{"message":"The server had an error while processing your request.","type":"server_error","param":null,"code":null}}"#;
                return Some(Ok(format!("data: {error}\n\n").into()));
            }
        }
        self.answer();
        None
    }

    fn answer(&mut self) {
        if let Some(visit) = self.visit.take() {
            visit.end(self.status);
        }
    }
}
