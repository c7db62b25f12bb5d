//! A TCP proxy before Redis that can lose or hold replies: the command has run, and nobody knows.

use std::{
    net::Ipv4Addr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
};

pub(super) struct Proxy {
    pub(super) port: u16,
    lose: Arc<AtomicBool>,
    hold: watch::Sender<bool>,
}

impl Proxy {
    pub(super) async fn before(redis: u16) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let (port, lose) = (
            listener.local_addr().unwrap().port(),
            Arc::new(AtomicBool::new(false)),
        );
        let hold = watch::Sender::new(false);
        let (losing, holding) = (lose.clone(), hold.subscribe());
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(pass(client, redis, losing.clone(), holding.clone()));
            }
        });
        Self { port, lose, hold }
    }

    pub(super) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// The next reply is lost, and its connection with it.
    pub(super) fn lose_next_reply(&self) {
        self.lose.store(true, Ordering::SeqCst);
    }

    /// Replies wait here until they are let go.
    pub(super) fn hold_replies(&self, hold: bool) {
        self.hold.send_replace(hold);
    }

    pub(super) fn has_lost_it(&self) -> bool {
        !self.lose.load(Ordering::SeqCst)
    }
}

async fn pass(
    mut client: TcpStream,
    redis: u16,
    lose: Arc<AtomicBool>,
    mut hold: watch::Receiver<bool>,
) -> std::io::Result<()> {
    let mut server = TcpStream::connect((Ipv4Addr::LOCALHOST, redis)).await?;
    let (mut up, mut down) = ([0; 4096], [0; 4096]);
    loop {
        let holding = *hold.borrow_and_update();
        tokio::select! {
            Ok(()) = hold.changed() => {}
            n = client.read(&mut up) => match n? {
                0 => return Ok(()),
                n => server.write_all(&up[..n]).await?,
            },
            n = server.read(&mut down), if !holding => match n? {
                0 => return Ok(()),
                _ if lose.swap(false, Ordering::SeqCst) => return Ok(()),
                n => client.write_all(&down[..n]).await?,
            },
        }
    }
}
