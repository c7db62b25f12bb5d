//! `GET /dashboard`: the operators' page, and the stream that keeps it live.
//!
//! The page is one answer that holds its style and its script, which its policy allows by their hashes. So during a
//! rolling update no browser mixes two versions. The page holds no data and needs no token; its script requests the
//! data with the operator's token in a header.
//!
//! `GET /api/dashboard/events`, Server-Sent Events:
//!
//! | event | body |
//! |---|---|
//! | `history` | `queues`, and `points` of the last minutes: `[ms, [[waiting, jobs a second, paused], …]]`, with gaps
//! while no viewer was connected |
//! | `frame` | every two seconds: `awayMs` (Redis, else null), `ageMs` of the `figures`, `alerts` that fire |
//!
//! # Layout
//! - [`Dashboard`]: counts the viewers, and runs one task that reads for all of them while there is a viewer.
//! - `sampler`: the figures that the task reads, and their history.
//! - `page/`: the page; its scripts are joined in the order in which the code below names them.

mod sampler;

use std::{
    convert::Infallible,
    sync::{Arc, LazyLock, Mutex, MutexGuard},
    time::Duration,
};

use axum::{
    extract::State,
    http::header,
    response::{
        IntoResponse, Response,
        sse::{Event, Sse},
    },
};
use base64::{Engine, prelude::BASE64_STANDARD};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch},
    task::AbortHandle,
    time::{MissedTickBehavior, timeout},
};
use tokio_util::sync::CancellationToken;

use self::sampler::{PlotHistory, Sampler};
use super::{HttpState, responses::HttpError};
use crate::{locks::locked, monitor::Monitor, operator::Operator};

/// Viewers of a replica at a time.
const PLACES: usize = 32;
/// How often they are told.
const EVERY: Duration = Duration::from_secs(2);
/// A stream without a frame for so long ends: the client opens another, and with it another task.
const SILENCE: Duration = Duration::from_secs(15);
/// A client that takes nothing for so long has gone, or might as well have.
const STUCK: Duration = Duration::from_secs(15);
/// The longest stream.
const LONGEST: Duration = Duration::from_secs(3600);

/// State that the viewers of a replica share.
#[derive(Debug, Clone)]
pub struct Dashboard(Arc<DashboardState>);

#[derive(Debug)]
struct DashboardState {
    monitor: Arc<Monitor>,
    operator: Operator,
    places: Arc<Semaphore>,
    /// The last frame, JSON; `None` before the first.
    frames: watch::Sender<Option<Arc<str>>>,
    looked_at: Mutex<SamplingState>,
    closing: CancellationToken,
}

#[derive(Debug, Default)]
struct SamplingState {
    viewers: usize,
    sampling: Option<AbortHandle>,
    history: PlotHistory,
}

impl Dashboard {
    /// A dashboard over what these read.
    pub fn new(monitor: Arc<Monitor>, operator: Operator) -> Self {
        Self(Arc::new(DashboardState {
            monitor,
            operator,
            places: Arc::new(Semaphore::new(PLACES)),
            frames: watch::Sender::new(None),
            looked_at: Mutex::default(),
            closing: CancellationToken::new(),
        }))
    }

    /// Ends every stream.
    pub(super) fn close(&self) {
        self.0.closing.cancel();
    }

    /// Takes a place among the viewers; `None` where all are taken. The first one starts the sampling.
    fn look(&self) -> Option<Viewer> {
        let place = self.0.places.clone().try_acquire_owned().ok()?;
        let mut looked_at = self.0.looked_at();
        if looked_at.sampling.as_ref().is_none_or(AbortHandle::is_finished) {
            self.0.frames.send_replace(None);
            looked_at.sampling = Some(tokio::spawn(sample(self.0.clone())).abort_handle());
        }
        looked_at.viewers += 1;
        let mut frames = self.0.frames.subscribe();
        // The one that is there is news to this viewer.
        frames.mark_changed();
        Some(Viewer {
            shared: self.0.clone(),
            history: looked_at.history.to_json(),
            frames,
            _place: place,
        })
    }
}

impl DashboardState {
    fn looked_at(&self) -> MutexGuard<'_, SamplingState> {
        locked(&self.looked_at)
    }
}

/// Reads for all viewers. Never ends by itself.
async fn sample(shared: Arc<DashboardState>) {
    let mut sampler = Sampler::default();
    let mut ticks = tokio::time::interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let (frame, point) = sampler.sample(&shared.monitor, &shared.operator).await;
        if let Some(point) = point {
            shared.looked_at().history.add(point);
        }
        shared.frames.send_replace(Some(frame));
    }
}

/// One viewer. The last one that is dropped stops the sampling.
struct Viewer {
    shared: Arc<DashboardState>,
    history: String,
    frames: watch::Receiver<Option<Arc<str>>>,
    _place: OwnedSemaphorePermit,
}

impl Drop for Viewer {
    fn drop(&mut self) {
        let mut looked_at = self.shared.looked_at();
        looked_at.viewers -= 1;
        if looked_at.viewers == 0
            && let Some(sampling) = looked_at.sampling.take()
        {
            sampling.abort();
        }
    }
}

impl Viewer {
    /// Sends frames to the viewer until it disconnects or stops reading.
    async fn tell(mut self, viewer: mpsc::Sender<Event>) {
        let closing = self.shared.closing.clone();
        let send = async |event| matches!(timeout(STUCK, viewer.send(event)).await, Ok(Ok(())));
        let told = async {
            let history = std::mem::take(&mut self.history);
            if !send(Event::default().event("history").data(history)).await {
                return;
            }
            // A slow viewer gets the latest frame and skips the frames that it has missed.
            while let Ok(Ok(())) = timeout(SILENCE, self.frames.changed()).await {
                let frame = self.frames.borrow_and_update().clone();
                if let Some(frame) = frame
                    && !send(Event::default().event("frame").data(frame)).await
                {
                    return;
                }
            }
        };
        tokio::select! {
            () = closing.cancelled() => {}
            () = viewer.closed() => {}
            () = tokio::time::sleep(LONGEST) => {}
            () = told => {}
        }
    }
}

pub(super) async fn events(State(ops): State<Arc<HttpState>>) -> Result<Response, HttpError> {
    let view = ops.dashboard.look();
    let view = view.ok_or_else(|| HttpError::Busy("too many dashboards are open".to_owned()))?;
    let (viewer, mut events) = mpsc::channel(1);
    // Spawned so that a viewer that no longer reads also frees its place, which stops the sampling after the last one.
    tokio::spawn(view.tell(viewer));
    let events = futures_util::stream::poll_fn(move |context| {
        events
            .poll_recv(context)
            .map(|event| event.map(Ok::<_, Infallible>))
    });
    let headers = [("x-accel-buffering", "no"), ("cache-control", "no-store")];
    Ok((headers, Sse::new(events)).into_response())
}

const STYLE: &str = include_str!("page/page.css");
const SCRIPT: &str = concat!(
    include_str!("page/dom.js"),
    include_str!("page/plots.js"),
    include_str!("page/live.js"),
    include_str!("page/overview.js"),
    include_str!("page/job.js"),
    include_str!("page/spend.js"),
    include_str!("page/main.js"),
);
const FRAME: &str = include_str!("page/page.html");

static PAGE: LazyLock<String> =
    LazyLock::new(|| FRAME.replace("{{style}}", STYLE).replace("{{script}}", SCRIPT));

/// Nothing but this style and this script, and calls to where the page came from; no text becomes markup or code.
static POLICY: LazyLock<String> = LazyLock::new(|| {
    let hash = |text: &str| {
        let digest = ring::digest::digest(&ring::digest::SHA256, text.as_bytes());
        format!("'sha256-{}'", BASE64_STANDARD.encode(digest))
    };
    let (style, script) = (hash(STYLE), hash(SCRIPT));
    format!(
        "default-src 'none'; style-src {style}; script-src {script}; connect-src 'self'; img-src data:; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'; \
         require-trusted-types-for 'script'; trusted-types 'none'"
    )
});

pub(super) async fn page() -> Response {
    let headers = [
        (header::CONTENT_TYPE, "text/html; charset=utf-8"),
        (header::CONTENT_SECURITY_POLICY, POLICY.as_str()),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-store"),
        (
            header::HeaderName::from_static("cross-origin-opener-policy"),
            "same-origin",
        ),
        (
            header::HeaderName::from_static("cross-origin-resource-policy"),
            "same-origin",
        ),
    ];
    (headers, PAGE.as_str()).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A closing tag inside the style or script would change the hashed text, and the policy forbids some constructs.
    #[test]
    fn the_page_is_what_its_policy_allows() {
        assert!(!STYLE.contains("</") && !SCRIPT.contains("</"));
        for forbidden in [
            "innerHTML",
            "outerHTML",
            "insertAdjacentHTML",
            "document.write",
            "eval(",
        ] {
            assert!(!SCRIPT.contains(forbidden), "{forbidden}");
        }
        assert!(PAGE.contains(STYLE) && PAGE.contains(SCRIPT) && !PAGE.contains("{{"));
        for forbidden in ["style=\"", "onclick", "http://", "https://"] {
            let html = FRAME.replace("http://www.w3.org/2000/svg", "");
            assert!(!html.contains(forbidden), "{forbidden}");
        }
        assert!(POLICY.is_ascii());
    }
}
