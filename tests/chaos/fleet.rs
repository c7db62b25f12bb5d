//! The replicas: started, killed, stopped, frozen; and what they leave.

use std::{path::PathBuf, time::Duration};

use nix::sys::signal::Signal;
use serde_json::Value;
use tokio::{sync::Mutex, time::sleep};

use crate::{
    field::Field,
    support::{Launcher, Proxy, Worker},
};

/// A place for a replica, with a line and a clock of its own.
pub(crate) struct Slot {
    worker: Mutex<Option<Worker>>,
    launcher: Launcher,
    env: Vec<(&'static str, String)>,
    pub(crate) proxy: Proxy,
    pub(crate) clock: PathBuf,
}

impl Slot {
    /// Starts the first replica in it.
    pub(crate) async fn start(
        launcher: Launcher,
        env: Vec<(&'static str, String)>,
        proxy: Proxy,
        clock: PathBuf,
    ) -> Self {
        Self {
            worker: Mutex::new(Some(start(&launcher, &env).await)),
            launcher,
            env,
            proxy,
            clock,
        }
    }
}

async fn start(launcher: &Launcher, env: &[(&'static str, String)]) -> Worker {
    let env: Vec<(&str, &str)> = env.iter().map(|(name, value)| (*name, value.as_str())).collect();
    launcher.worker(&env).await
}

impl Field {
    /// Kills a replica, and starts another in its place. Returns the name of the dead one, and when it died by the
    /// simulator's time.
    pub(crate) async fn kill(&self, victim: usize) -> (String, f64) {
        let now = self.simulator.journal().elapsed_ms();
        {
            let mut record = self.record();
            record.interruptions.push((now, now));
            record.kills += 1;
        }
        (self.replace(victim, Signal::SIGKILL, None).await, now)
    }

    /// Stops a replica as an operator does, while another starts: as at a deployment.
    pub(crate) async fn terminate(&self, victim: usize) {
        self.replace(victim, Signal::SIGTERM, Some(0)).await;
    }

    async fn replace(&self, victim: usize, signal: Signal, code: Option<i32>) -> String {
        let slot = &self.slots[victim];
        let mut place = slot.worker.lock().await;
        let mut dying = place.take().expect("each place has its replica until the end");
        self.must_live(&mut dying);
        dying.signal(signal);
        *place = Some(start(&slot.launcher, &slot.env).await);
        let name = dying.name.clone();
        self.bury(dying, code).await;
        name
    }

    /// Stops a replica's clock and mind for a while: it wakes with leases that have run out.
    pub(crate) async fn freeze(&self, victim: usize, time: Duration) {
        let place = self.slots[victim].worker.lock().await;
        let worker = place.as_ref().expect("each place has its replica until the end");
        let from = self.simulator.journal().elapsed_ms();
        worker.signal(Signal::SIGSTOP);
        sleep(time).await;
        worker.signal(Signal::SIGCONT);
        let to = self.simulator.journal().elapsed_ms();
        self.record().interruptions.push((from, to));
    }

    /// Stops every replica as an operator does.
    pub(crate) async fn stop(&self) {
        let mut dying = Vec::new();
        for slot in &self.slots {
            let mut worker = slot.worker.lock().await.take().expect("it is stopped once");
            self.must_live(&mut worker);
            worker.signal(Signal::SIGTERM);
            dying.push(worker);
        }
        for worker in dying {
            self.bury(worker, Some(0)).await;
        }
    }

    fn must_live(&self, worker: &mut Worker) {
        if worker.has_ended() {
            let finding = format!("replica {} ended by itself", worker.name);
            self.record().findings.push(finding);
        }
    }

    /// Takes down what a replica leaves: its exit code, its closing counts, its errors.
    async fn bury(&self, worker: Worker, expected: Option<i32>) {
        let name = worker.name.clone();
        let (code, log) = worker.ended().await;
        std::fs::write(self.folder.join(format!("{name}.log")), log.join("\n")).unwrap();
        let mut record = self.record();
        if code != expected {
            record
                .findings
                .push(format!("replica {name} exited with {code:?}, not {expected:?}"));
        }
        for line in &log {
            let event: Value = serde_json::from_str(line).unwrap_or_default();
            let message = event["message"].as_str().unwrap_or_default();
            if message == "stopped" {
                record.succeeded += event["succeeded"].as_u64().unwrap_or(0);
            }
            let spans = event["spans"].as_array().into_iter().flatten();
            let job = spans.filter_map(|span| span["id"].as_str()).next();
            if message.starts_with("the answer of a paid call is not in the ledger")
                && let Some(job) = job
            {
                *record.not_kept.entry(job.to_owned()).or_default() += 1;
            }
            if message == "the outcome is not written yet" {
                record.unwritten.extend(job.map(str::to_owned));
            }
            if event["level"] == "ERROR" {
                *record
                    .errors
                    .entry(message.chars().take(60).collect())
                    .or_default() += 1;
            }
        }
    }
}
