//! How often a job waits for Redis: replies are passed on only when the worker has nothing more to send, so that each
//! round of replies is one wait.

use std::{
    net::Ipv4Addr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use backend_worker::{
    queue::{Layout, NewJob},
    simulator::Provider,
};
use jobs::JobType;
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use crate::support::{Scene, raw};

/// A worker that has sent nothing for so long waits for Redis.
const QUIET: Duration = Duration::from_millis(15);
const JOBS: usize = 16;

/// Accepts connections to Redis, and counts the rounds of replies on all of them.
async fn counting_proxy(redis: u16) -> (u16, Arc<AtomicUsize>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let (port, rounds) = (
        listener.local_addr().unwrap().port(),
        Arc::<AtomicUsize>::default(),
    );
    let counted = rounds.clone();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let server = TcpStream::connect((Ipv4Addr::LOCALHOST, redis)).await.unwrap();
            tokio::spawn(pass(client, server, counted.clone()));
        }
    });
    (port, rounds)
}

async fn pass(mut client: TcpStream, mut server: TcpStream, rounds: Arc<AtomicUsize>) -> std::io::Result<()> {
    let (mut requests, mut replies) = ([0; 16 * 1024], [0; 16 * 1024]);
    let mut held = Vec::new();
    loop {
        tokio::select! {
            read = client.read(&mut requests) => match read? {
                0 => return Ok(()),
                n => server.write_all(&requests[..n]).await?,
            },
            read = server.read(&mut replies) => match read? {
                0 => return Ok(()),
                n => held.extend_from_slice(&replies[..n]),
            },
            // Every branch that ends before starts the time again.
            () = tokio::time::sleep(QUIET), if !held.is_empty() => {
                rounds.fetch_add(1, Ordering::SeqCst);
                client.write_all(&std::mem::take(&mut held)).await?;
            }
        }
    }
}

/// Between two provider calls a job completes and the next one is claimed in one round trip. The same holds for the two
/// scripts before a call.
#[tokio::test]
async fn a_job_waits_for_redis_three_times_between_two_calls() {
    let mut scene = Scene::set(Duration::ZERO).await;
    let (port, rounds) = counting_proxy(scene.redis.server.port()).await;
    scene
        .launcher
        .env
        .push(("REDIS_URL", format!("redis://127.0.0.1:{port}")));
    let broker = scene.redis.broker(Layout::Bullmq, "ai-jobs", "producer");
    for n in 0..JOBS {
        let content = format!("The cell divides, part {n}.");
        let payload = json!({ "content": content, "subject": "Biology", "topic": "Cells", "userId": "ann" });
        let payload = raw(&payload.to_string());
        let job = NewJob {
            id: &format!("job-{n}"),
            kind: JobType::GenerateFlashcards,
            payload: &payload,
            max_attempts: 3,
            delay: Duration::ZERO,
        };
        assert!(broker.enqueue(&job).await.unwrap());
    }
    let worker = scene
        .worker(&[("QUEUES", "bullmq:ai-jobs=1"), ("DEDUPLICATE", "off")])
        .await;
    let mut seen = Vec::new();
    for n in 1..=JOBS {
        let journal = scene.simulator.journal();
        let called = journal.wait_until(|journal| journal.of(Provider::OpenAi).len() >= n);
        let in_time = tokio::time::timeout(Duration::from_secs(20), called).await;
        assert!(
            in_time.is_ok(),
            "call {n}: {seen:?} {} {:?}",
            rounds.load(Ordering::SeqCst),
            worker.log()
        );
        seen.push(rounds.load(Ordering::SeqCst));
    }
    // Renewals and the like add a round to some of them.
    let fewest = seen.windows(2).map(|pair| pair[1] - pair[0]).min();
    assert_eq!(fewest, Some(3), "{seen:?}");
}
