//! `health`: asks the worker of this host how it is, for a container's HEALTHCHECK: no curl is needed there.

use std::{net::Ipv6Addr, process::ExitCode, time::Duration};

use anyhow::{Context, bail};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::config::Config;

const TIMEOUT: Duration = Duration::from_secs(3);
/// Of the answer, so much is read.
const LONGEST: u64 = 64 * 1024;

pub(super) async fn run() -> anyhow::Result<ExitCode> {
    let port = Config::from_env()?.port;
    let answer = tokio::time::timeout(TIMEOUT, ask(port))
        .await
        .context("the worker does not answer in 3 s")?
        .with_context(|| format!("the worker cannot be asked on port {port}"))?;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    println!("{body}");
    match head.split(' ').nth(1) {
        Some("200") => Ok(ExitCode::SUCCESS),
        Some(_) => Ok(ExitCode::FAILURE),
        None => bail!("something else answers on port {port}"),
    }
}

async fn ask(port: u16) -> std::io::Result<String> {
    let mut socket = match TcpStream::connect((Ipv6Addr::LOCALHOST, port)).await {
        Ok(socket) => socket,
        Err(_) => TcpStream::connect(("127.0.0.1", port)).await?,
    };
    let request = "GET /api/health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    socket.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    socket.take(LONGEST).read_to_end(&mut answer).await?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}
