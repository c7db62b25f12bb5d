//! `GET /api/job-events`: what a client is told of a job, whatever the layout of its queue, and that it costs nothing
//! once the client has gone.

mod announced;
mod steps;
mod streams;

use std::{sync::Arc, time::Duration};

use backend_worker::{
    http_api::{AccessControl, Dashboard, EventStreams, HttpServer, HttpState},
    monitor::Monitor,
    operator::Operator,
    queue::{Broker, ClaimNumber, Delivery, Layout, WriteResult},
    ratelimit::{RateLimits, RateWindow},
    spending::{Budgets, accounts::SpendAccounts},
};
use serde_json::Value;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::support::{Sse, TestRedis, claim_one, eventually};

/// A queue that the test works by hand, and the routes over it.
struct Scene {
    redis: TestRedis,
    broker: Arc<dyn Broker>,
    url: String,
    stop: CancellationToken,
    server: JoinHandle<std::io::Result<()>>,
}

impl Scene {
    async fn of(layout: Layout) -> Self {
        Self::with(layout, EventStreams::default(), AccessControl::default()).await
    }

    async fn with(layout: Layout, streams: EventStreams, access: AccessControl) -> Self {
        let redis = TestRedis::start().await;
        let broker = redis.broker(layout, "q", "w");
        broker.renew(&[]).await.unwrap();
        let unlimited = RateWindow {
            limit: 0,
            length: Duration::from_secs(1),
        };
        let operator = Operator::new(vec![broker.clone()], None);
        let monitor = Arc::new(Monitor::new(
            Vec::new(),
            operator.clone(),
            None,
            redis.connection(),
            "w",
        ));
        let ops = HttpState {
            workers: Vec::new(),
            dashboard: Dashboard::new(monitor.clone(), operator.clone()),
            operator,
            monitor,
            accounts: SpendAccounts::new(redis.connection(), Budgets::default()),
            rate_limits: RateLimits::new(redis.connection()),
            user_window: unlimited,
            ip_window: unlimited,
            streams,
            access,
            started: std::time::Instant::now(),
        };
        let server = HttpServer::bind(0).await.unwrap();
        let url = format!("http://127.0.0.1:{}/api/job-events", server.port().unwrap());
        let stop = CancellationToken::new();
        let server = tokio::spawn(server.serve(ops, stop.clone()));
        Self {
            redis,
            broker,
            url,
            stop,
            server,
        }
    }

    async fn open(&self, id: &str) -> Sse {
        Sse::open(&format!("{}?jobId={id}", self.url)).await
    }

    /// Claims the one job that is there; also the next number.
    async fn claim(&self, number: ClaimNumber) -> (Delivery, ClaimNumber) {
        claim_one(&*self.broker, number).await
    }

    async fn complete(&self, delivery: &Delivery) {
        let settled = self
            .broker
            .complete(&delivery.lease, r#"{"cards":2}"#)
            .await
            .unwrap();
        assert_eq!(settled, WriteResult::Applied);
    }

    /// Redis connections that wait for the queue's events.
    async fn readers(&self) -> usize {
        let clients: String = self.redis.ask(&["CLIENT", "LIST"]).await;
        clients.lines().filter(|line| line.contains("cmd=xread")).count()
    }

    async fn until_unwatched(&self) {
        eventually("nobody watches", async || {
            (self.broker.watchers().count() == 0 && self.readers().await == 0).then_some(())
        })
        .await;
    }
}

fn names(events: &[(String, Value)]) -> Vec<&str> {
    events.iter().map(|(name, _)| name.as_str()).collect()
}
