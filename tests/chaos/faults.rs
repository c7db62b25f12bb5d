//! How each fault is inflicted, and taken back.

use std::time::Duration;

use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::{
    field::{AOF, Field},
    fleet::Slot,
    plan::{Course, Fault, Lane},
    support::Weather,
};

impl Field {
    /// Inflicts the lane's faults one after the other, each taken back before the next, until `stop`.
    pub(crate) async fn suffer(&self, lane: Lane, stop: &CancellationToken) {
        for blow in Course::new(self.settings.seed, lane, self.settings.lease) {
            tokio::select! {
                () = stop.cancelled() => return,
                () = sleep(blow.after) => {}
            }
            if matches!(blow.fault, Fault::Clock(_)) && !self.has_clocks() {
                continue;
            }
            let (victim, from) = (
                blow.victim % self.slots.len(),
                self.simulator.journal().elapsed_ms(),
            );
            self.inflict(blow.fault, victim).await;
            let to = self.simulator.journal().elapsed_ms();
            let mut record = self.record();
            *record.faults.entry(blow.fault.name()).or_default() += 1;
            record.times.push((format!("{:?}", blow.fault), victim, from, to));
        }
    }

    pub(crate) async fn inflict(&self, fault: Fault, victim: usize) {
        let Slot { proxy, clock, .. } = &self.slots[victim];
        let weather = |weather: Weather, time| async move {
            let from = self.simulator.journal().elapsed_ms();
            proxy.set(weather);
            sleep(time).await;
            proxy.set(Weather::default());
            if weather.is_half_open || weather.sip.is_some() {
                let to = self.simulator.journal().elapsed_ms();
                self.record().partitions.push((from, to));
            }
        };
        let faults = self.simulator.faults();
        match fault {
            Fault::Kill => drop(self.kill(victim).await),
            Fault::Terminate => self.terminate(victim).await,
            Fault::Freeze(time) => self.freeze(victim, time).await,
            Fault::Clock(seconds) => std::fs::write(clock, format!("{seconds:+}s")).unwrap(),
            Fault::RestartRedis { killed } => {
                if !killed {
                    // The answer is the end of the connection.
                    let mut shutdown = redis::cmd("SHUTDOWN");
                    let client = redis::Client::open(self.url.as_str()).unwrap();
                    if let Ok(mut connection) = client.get_multiplexed_async_connection().await {
                        let _ = shutdown.arg("NOSAVE").query_async::<()>(&mut connection).await;
                    }
                }
                let mut redis = self.redis.lock().await;
                redis.server.restart(AOF).await.unwrap();
            }
            Fault::KillClients(times) => {
                for _ in 0..times {
                    self.order::<u64>(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"])
                        .await;
                    sleep(Duration::from_millis(10)).await;
                }
            }
            Fault::Pause(time) => {
                let ms = time.as_millis().to_string();
                self.order::<()>(&["CLIENT", "PAUSE", &ms, "ALL"]).await;
                sleep(time).await;
            }
            Fault::ForgetScripts => {
                self.order::<()>(&["SCRIPT", "FLUSH"]).await;
                self.try_order(&["FUNCTION", "FLUSH"]).await; // Redis 6.2 knows no functions.
            }
            Fault::OutOfMemory(time) => {
                self.order::<()>(&["CONFIG", "SET", "maxmemory", "1mb"]).await;
                sleep(time).await;
                self.order::<()>(&["CONFIG", "SET", "maxmemory", "0"]).await;
            }
            Fault::ReadOnly(time) => {
                self.order::<()>(&["REPLICAOF", "127.0.0.1", "1"]).await;
                sleep(time).await;
                self.order::<()>(&["REPLICAOF", "NO", "ONE"]).await;
            }
            Fault::SlowLine(time) => {
                let latency = Duration::from_millis(40);
                weather(
                    Weather {
                        latency,
                        ..Weather::default()
                    },
                    time,
                )
                .await;
            }
            Fault::Cut => proxy.cut(),
            Fault::HalfOpen(time) => {
                weather(
                    Weather {
                        is_half_open: true,
                        ..Weather::default()
                    },
                    time,
                )
                .await;
            }
            Fault::Sips(time) => {
                weather(
                    Weather {
                        sip: Some(512),
                        ..Weather::default()
                    },
                    time,
                )
                .await
            }
            Fault::Failures(percent, time) => {
                faults.set_random_share(f64::from(percent) / 100.0).unwrap();
                sleep(time).await;
                faults.set_random_share(0.0).unwrap();
            }
            Fault::SlowProvider(time) => {
                self.simulator.set_latency(self.settings.latency * 8);
                sleep(time).await;
                self.simulator.set_latency(self.settings.latency);
            }
        }
    }
}
