//! The binary and its surroundings: a Redis, a simulator, and replicas as processes.

use std::{
    ops::Deref,
    path::PathBuf,
    process::Stdio,
    sync::{Arc, Mutex},
    time::Duration,
};

use backend_worker::{
    demo::point_to,
    simulator::{RunningSimulator, Simulator, SimulatorOptions},
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, BufReader},
    process::{Child, Command},
};

use crate::{PATIENCE, TestRedis};

/// A Redis, a simulator, and what starts a worker between both.
pub struct Scene {
    pub redis: TestRedis,
    pub simulator: RunningSimulator,
    pub launcher: Launcher,
}

/// Starts the binary, with the variables that point it to a scene.
#[derive(Clone)]
pub struct Launcher {
    pub binary: PathBuf,
    pub env: Vec<(&'static str, String)>,
}

impl Deref for Scene {
    type Target = Launcher;

    fn deref(&self) -> &Launcher {
        &self.launcher
    }
}

impl Scene {
    pub async fn set(latency: Duration) -> Self {
        Self::over(TestRedis::start().await, latency, 0).await
    }

    /// A scene over this Redis; `seed` is that of the simulator.
    pub async fn over(redis: TestRedis, latency: Duration, seed: u64) -> Self {
        let options = SimulatorOptions {
            latency,
            seed,
            ..SimulatorOptions::default()
        };
        let simulator = Simulator::bind(([127, 0, 0, 1], 0).into(), options.clone())
            .await
            .unwrap();
        let mut env = point_to(&simulator, &options);
        env.push(("REDIS_URL", redis.server.url()));
        if !redis.own().is_empty() {
            env.push(("REDIS_CLUSTER_TAG", redis.own().to_owned()));
        }
        env.push(("PORT", "0".to_owned()));
        env.push(("ADMIN_FROM_LOOPBACK", "on".to_owned()));
        env.push(("LOG_FORMAT", "json".to_owned()));
        env.push(("RETRY_BASE_DELAY", "20ms".to_owned()));
        env.push(("OPENAI_RATE_LIMIT_RPM", "0".to_owned()));
        env.push(("OPENAI_MAX_CONCURRENT", "0".to_owned()));
        env.push(("AZURE_VISION_RATE_LIMIT_RPM", "0".to_owned()));
        Self {
            redis,
            simulator: simulator.spawn(),
            launcher: Launcher {
                binary: worker_binary(),
                env,
            },
        }
    }
}

/// The worker's binary, which Cargo builds for the test binary that runs: one folder above it.
fn worker_binary() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let folder = test.ancestors().nth(2).unwrap();
    let binary = folder.join(format!("backend-worker{}", std::env::consts::EXE_SUFFIX));
    assert!(binary.exists(), "{} is not built", binary.display());
    binary
}

impl Launcher {
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.binary);
        // A clean environment, and a folder without a .env.
        command
            .env_clear()
            .envs(self.env.iter().cloned())
            .current_dir(std::env::temp_dir());
        command
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        command
    }

    pub async fn worker(&self, variables: &[(&str, &str)]) -> Worker {
        let mut process = self
            .command(&["run"])
            .envs(variables.iter().copied())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let ready = tokio::time::timeout(PATIENCE, async {
            while let Some(line) = lines.next_line().await.unwrap() {
                let event: Value = serde_json::from_str(&line).unwrap_or_else(|e| panic!("{e} in {line}"));
                if event["message"].as_str().is_some_and(|m| m.starts_with("ready")) {
                    return event;
                }
            }
            let (mut why, stderr) = (String::new(), process.stderr.as_mut().unwrap());
            stderr.read_to_string(&mut why).await.unwrap();
            panic!("the worker ended before it was ready: {why}");
        });
        let ready = ready.await.expect("the worker gets ready");
        let log = Arc::new(Mutex::new(Vec::new()));
        let reader = tokio::spawn({
            let log = log.clone();
            async move {
                while let Some(line) = lines.next_line().await.unwrap() {
                    log.lock().unwrap().push(line);
                }
            }
        });
        Worker {
            process,
            port: ready["port"].as_u64().unwrap(),
            name: ready["replica"].as_str().unwrap().to_owned(),
            log,
            reader,
        }
    }

    /// `enqueue` with these arguments: its standard output, by lines.
    pub async fn enqueue(&self, arguments: &[&str]) -> Vec<String> {
        let output = self
            .command(&[&["enqueue"], arguments].concat())
            .output()
            .await
            .unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout)
            .unwrap()
            .lines()
            .map(str::to_owned)
            .collect()
    }
}

/// A replica as a process; killed when it is dropped.
pub struct Worker {
    process: Child,
    pub port: u64,
    /// What it calls itself in Redis.
    pub name: String,
    log: Arc<Mutex<Vec<String>>>,
    reader: tokio::task::JoinHandle<()>,
}

impl Worker {
    pub fn pid(&self) -> u32 {
        self.process.id().unwrap()
    }

    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.pid().cast_signed()), signal).unwrap();
    }

    /// Whether it has ended by itself.
    pub fn has_ended(&mut self) -> bool {
        self.process.try_wait().unwrap().is_some()
    }

    /// What it has logged since it was ready.
    pub fn log(&self) -> Vec<String> {
        self.log.lock().unwrap().clone()
    }

    /// The exit code, and what it logged since it was ready.
    pub async fn ended(mut self) -> (Option<i32>, Vec<String>) {
        let status = tokio::time::timeout(PATIENCE, self.process.wait())
            .await
            .expect("the worker ends")
            .unwrap();
        self.reader.await.unwrap();
        let log = self.log.lock().unwrap().clone();
        (status.code(), log)
    }

    pub async fn health(&self) -> Option<(u16, Value)> {
        let answer = reqwest::get(format!("http://localhost:{}/api/health", self.port))
            .await
            .ok()?;
        Some((answer.status().as_u16(), answer.json().await.ok()?))
    }
}
