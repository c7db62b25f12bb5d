//! A Redis Cluster: the fleet's keys lie in one slot, whose owner the replicas follow.

mod follow;
mod moving;
mod spread;
mod start;

use std::{sync::Arc, time::Duration};

use backend_worker::{
    connection::Connection,
    queue::{Broker, BrokerOptions, ClaimNumber, Layout, apalis::ApalisBroker, bullmq::BullmqBroker},
    simulator::Provider,
};
use jobs::JobType;
use nix::sys::signal::Signal;

use crate::support::{Scene, TAG, TestCluster, Worker, add, eventually};

const QUEUE: &str = "cards";

/// A cluster, a simulator, and replicas that serve one queue of each layout.
struct ClusterScene {
    cluster: TestCluster,
    scene: Scene,
}

impl ClusterScene {
    async fn set(latency: Duration) -> Self {
        let (cluster, scene) = tokio::join!(TestCluster::start(3, 3), Scene::set(latency));
        Self { cluster, scene }
    }

    async fn worker(&self, variables: &[(&str, &str)]) -> Worker {
        let url = self.cluster.url([1, 2, 3]);
        let mut all = vec![
            ("REDIS_URL", &*url),
            ("REDIS_CLUSTER_TAG", TAG),
            ("QUEUES", "bullmq:cards=8,apalis:cards=8"),
        ];
        all.extend(variables);
        self.scene.worker(&all).await
    }

    fn broker(&self, layout: Layout) -> Arc<dyn Broker> {
        let (connection, options) = (self.cluster.connection(), BrokerOptions::default());
        match layout {
            Layout::Bullmq => {
                let broker = BullmqBroker::new(connection, QUEUE, "onlooker", options);
                Arc::new(broker.under_prefix(&format!("{{{TAG}}}")))
            }
            Layout::Apalis => Arc::new(ApalisBroker::new(connection, QUEUE, "onlooker", options)),
        }
    }

    fn requests(&self) -> usize {
        let requests = self.scene.simulator.journal().counts(Provider::OpenAi).requests;
        usize::try_from(requests).unwrap()
    }

    async fn until_requests(&self, count: usize) {
        let mut seen = 0;
        while seen < count {
            seen = eventually("further calls of the provider", async || {
                let requests = self.requests();
                (requests > seen).then_some(requests)
            })
            .await;
        }
    }
}

/// Adds jobs `<prefix>0` and so on, each with a text of its own.
async fn add_jobs(broker: &dyn Broker, prefix: &str, count: usize) {
    for n in 0..count {
        let payload = format!(
            r#"{{"content":"cells {prefix}{n}","subject":"s","topic":"t","userId":"u{}"}}"#,
            n % 7
        );
        add(
            broker,
            &format!("{prefix}{n}"),
            JobType::GenerateFlashcards,
            &payload,
            3,
        )
        .await;
    }
}

/// Waits until so many jobs are completed, and no other is left.
async fn all_completed(broker: &dyn Broker, count: usize) {
    let mut completed = 0;
    while completed < count as u64 {
        completed = eventually("further jobs are completed", async || {
            let counts = broker.counts().await.ok()?;
            assert_eq!(counts.failed, 0, "{counts:?}");
            (counts.completed > completed).then_some(counts.completed)
        })
        .await;
    }
    let counts = broker.counts().await.unwrap();
    let left = counts.waiting + counts.active + counts.delayed;
    assert_eq!((counts.completed, left), (count as u64, 0), "{counts:?}");
}

async fn stop(worker: Worker) {
    worker.signal(Signal::SIGTERM);
    let (code, log) = worker.ended().await;
    assert_eq!(code, Some(0), "{log:#?}");
}
