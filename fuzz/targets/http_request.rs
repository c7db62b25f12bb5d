//! Requests to the HTTP server, from the first byte on.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a fuzz target reports a fault by a panic"
)]

use std::{
    net::SocketAddr,
    sync::{Arc, LazyLock},
    time::{Duration, Instant},
};

use axum::Router;
use hostile::Target;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    runtime::{Builder, Runtime},
};
use tokio_util::sync::CancellationToken;

use super::{
    AccessControl, Dashboard, EventStreams, HttpState,
    server::{ServerLimits, connection, uncounted},
};
use crate::{
    connection::Connection,
    monitor::Monitor,
    operator::Operator,
    queue::{BrokerOptions, OperatorQueue, apalis::ApalisBroker, bullmq::BullmqBroker},
    ratelimit::{RateLimits, RateWindow},
    spending::{Budgets, accounts::SpendAccounts},
};

static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| {
    Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime can be built")
});

/// The routes of a replica whose Redis is away: what reaches it is refused at once.
static ROUTES: LazyLock<Router> = LazyLock::new(|| {
    let _inside = RUNTIME.enter();
    let connection = Connection::open(&"redis://127.0.0.1:1".into()).expect("the URL is one");
    let options = BrokerOptions::default();
    let brokers: Vec<Arc<dyn OperatorQueue>> = vec![
        Arc::new(BullmqBroker::new(connection.clone(), "q", "w", options)),
        Arc::new(ApalisBroker::new(connection.clone(), "q", "w", options)),
    ];
    let operator = Operator::new(brokers, None);
    let window = RateWindow {
        limit: 0,
        length: Duration::from_secs(60),
    };
    let monitor = Monitor::new(Vec::new(), operator.clone(), None, connection.clone(), "r");
    let monitor = Arc::new(monitor);
    let ops = HttpState {
        workers: Vec::new(),
        dashboard: Dashboard::new(monitor.clone(), operator.clone()),
        operator,
        monitor,
        accounts: SpendAccounts::new(connection.clone(), Budgets::default()),
        rate_limits: RateLimits::new(connection),
        user_window: window,
        ip_window: window,
        streams: EventStreams::default(),
        access: AccessControl::default(),
        started: Instant::now(),
    };
    ops.router()
});

/// Whatever comes over a connection, all of it and then nothing more: answers in HTTP, none of which says that the
/// server is at fault, or none.
pub(crate) static HTTP_REQUEST: Target = Target::new("http_request", |input| {
    let (client, server) = tokio::io::duplex(64 * 1024);
    let peer = SocketAddr::from(([127, 0, 0, 1], 7));
    let serving = connection(
        server,
        peer,
        ROUTES.clone(),
        ServerLimits::default(),
        CancellationToken::new(),
        uncounted(),
    );
    let mut answers = Vec::new();
    let (mut reading, mut writing) = tokio::io::split(client);
    RUNTIME.block_on(async {
        let asking = async {
            // The server may refuse the request before it has read all of it.
            let _ = writing.write_all(input).await;
            let _ = writing.shutdown().await;
        };
        let _ = tokio::join!(serving, asking, reading.read_to_end(&mut answers));
    });
    if answers.is_empty() {
        return;
    }
    assert!(answers.starts_with(b"HTTP/1."), "{}", answers.escape_ascii());
    let status = answers.get(9..12).unwrap_or_default();
    assert_ne!(status, b"500", "{}", answers.escape_ascii());
})
.with_room(2 * 1024 * 1024)
.with_cases(1_000);

#[test]
fn http_requests() {
    HTTP_REQUEST.run();
}
