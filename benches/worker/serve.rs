//! `serve <redis url> <queue> <concurrency> [announce]`: no-op jobs of a BullMQ queue until SIGTERM, for
//! `scripts/bench-peer.sh`, which drives a worker of BullMQ's own in the same way. With `announce` each job that starts
//! is a line on standard output.

use std::{io::Write, sync::Arc};

use async_trait::async_trait;
use backend_worker::{
    connection::Connection,
    queue::{BrokerOptions, bullmq::BullmqBroker},
    worker::{Assignment, DeliveryHandler, DeliveryOutcome, Runtime},
};
use tokio::signal::unix::{SignalKind, signal};

use crate::{Result, options};

struct NoOp {
    announce: bool,
}

#[async_trait]
impl DeliveryHandler for NoOp {
    async fn handle(&self, _: &Assignment) -> DeliveryOutcome {
        if self.announce {
            // An error means that the reader, which measures, has ended.
            let _ = std::io::stdout().write_all(b"started\n");
        }
        DeliveryOutcome::Completed("null".to_owned())
    }
}

pub(crate) async fn serve(arguments: &[String]) -> Result {
    let [url, queue, concurrency, announce @ ..] = arguments else {
        return Err("serve <redis url> <queue> <concurrency> [announce]".into());
    };
    let connection = Connection::open(&url.as_str().into())?;
    let broker = BullmqBroker::new(connection, queue, "bench", BrokerOptions::default());
    let handler = NoOp {
        announce: announce.iter().any(|a| a == "announce"),
    };
    let runtime = Runtime::new(
        [(Arc::new(broker) as _, concurrency.parse()?)],
        Arc::new(handler),
        &options()?,
    );
    let mut terminate = signal(SignalKind::terminate())?;
    let stop = async move {
        terminate.recv().await;
    };
    println!("READY");
    runtime.run(stop, std::future::pending()).await?;
    Ok(())
}
