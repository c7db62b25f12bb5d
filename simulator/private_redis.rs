//! A redis-server of our own on a free port of loopback, gone when it is dropped.

use std::{
    net::{Ipv4Addr, TcpListener},
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    process::{Child, Command},
};

const START_TIMEOUT: Duration = Duration::from_secs(20);
const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);

/// A redis-server of our own, gone when it is dropped.
#[derive(Debug)]
pub struct PrivateRedis {
    program: PathBuf,
    server: Child,
    port: u16,
    folder: PathBuf,
}

impl PrivateRedis {
    /// Starts a redis-server that keeps nothing on disk, and waits until it answers.
    ///
    /// # Errors
    /// When redis-server is not installed, or does not start.
    pub async fn start() -> anyhow::Result<Self> {
        Self::start_with(&[]).await
    }

    /// As [`Self::start`], with further arguments for redis-server.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub async fn start_with(arguments: &[&str]) -> anyhow::Result<Self> {
        Self::start_program("redis-server".into(), arguments).await
    }

    /// As [`Self::start_with`], with another program than the `redis-server` of the path.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub async fn start_program(program: PathBuf, arguments: &[&str]) -> anyhow::Result<Self> {
        // Another process may take the port between its release and redis-server's bind: then a further one is tried.
        for _ in 0..5 {
            let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
            let folder = std::env::temp_dir().join(format!("backend-worker-{}-{port}", std::process::id()));
            std::fs::create_dir_all(&folder)
                .with_context(|| format!("cannot create {}", folder.display()))?;
            let server = spawn(&program, port, &folder, arguments)?;
            let mut redis = Self {
                program: program.clone(),
                server,
                port,
                folder,
            };
            if redis.is_up().await? {
                return Ok(redis);
            }
        }
        bail!("redis-server finds no free port")
    }

    /// `redis://127.0.0.1:<port>`.
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Its port.
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// Its process.
    pub fn pid(&self) -> Option<u32> {
        self.server.id()
    }

    /// Kills the server (SIGKILL) and starts it again on the same port and folder.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub async fn restart(&mut self, arguments: &[&str]) -> anyhow::Result<()> {
        self.server
            .kill()
            .await
            .context("redis-server cannot be killed")?;
        self.server = spawn(&self.program, self.port, &self.folder, arguments)?;
        if self.is_up().await? {
            Ok(())
        } else {
            bail!("redis-server does not come back")
        }
    }

    /// Stops the server, and removes its folder.
    pub async fn stop(mut self) {
        // Err says that it has ended by itself.
        let _ = self.server.kill().await;
    }

    /// Waits until the server answers; `false` when it has ended instead.
    async fn is_up(&mut self) -> anyhow::Result<bool> {
        let started = Instant::now();
        loop {
            if self.server.try_wait()?.is_some() {
                return Ok(false);
            }
            // Another process may have taken the port, and answer in its stead.
            let ours = self.server.id().map(|pid| format!("process_id:{pid}\r"));
            let answer = tokio::time::timeout(ANSWER_TIMEOUT, info(self.port)).await;
            if let (Ok(Ok(info)), Some(ours)) = (answer, ours)
                && info.contains(&ours)
            {
                break;
            }
            if started.elapsed() > START_TIMEOUT {
                bail!(
                    "redis-server does not answer on port {} within {START_TIMEOUT:?}",
                    self.port
                );
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(true)
    }
}

/// The answer to INFO, over a connection of its own.
async fn info(port: u16) -> std::io::Result<String> {
    let mut server = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?;
    server.write_all(b"INFO server\r\nQUIT\r\n").await?;
    let mut info = String::new();
    server.read_to_string(&mut info).await?;
    Ok(info)
}

impl Drop for PrivateRedis {
    fn drop(&mut self) {
        let _ = self.server.start_kill();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

fn spawn(program: &Path, port: u16, folder: &Path, arguments: &[&str]) -> anyhow::Result<Child> {
    let server = Command::new(program)
        .args([
            "--bind",
            "127.0.0.1",
            "--port",
            &port.to_string(),
            "--save",
            "",
            "--dir",
        ])
        .arg(folder)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        // Not in the terminal's group: Ctrl-C is for us, who stop it when its jobs are back in their queues.
        .process_group(0)
        .kill_on_drop(true)
        .spawn();
    match server {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            bail!("redis-server is not installed (Debian: apt-get install redis-server)")
        }
        server => server.context("redis-server does not start"),
    }
}
