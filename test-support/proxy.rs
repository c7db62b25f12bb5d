//! A TCP proxy before Redis, with weather: replies that are lost or held, lines that are slow, cut, or half open.

use std::{
    io,
    net::Ipv4Addr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU16, AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
};

/// Pause between two sips of a slow reader.
const SIP_EVERY: Duration = Duration::from_millis(10);

/// What becomes of the bytes; by default they pass.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Weather {
    /// Each piece is late by so much, both ways.
    pub latency: Duration,
    /// Replies wait here.
    pub holds_replies: bool,
    /// Connections are accepted, and nothing passes: neither way, and no word of it.
    pub is_half_open: bool,
    /// Replies are read so many bytes at a time, a hundred times a second.
    pub sip: Option<usize>,
    /// A change of this number cuts every connection.
    pub cuts: u64,
}

/// A proxy on a port of its own.
pub struct Proxy {
    pub port: u16,
    /// Where new connections lead.
    redis: Arc<AtomicU16>,
    lose: Arc<AtomicBool>,
    weather: watch::Sender<Weather>,
    connections: Arc<Mutex<Vec<Arc<Carried>>>>,
}

/// What a connection has carried, bytes.
#[derive(Debug, Default)]
struct Carried {
    requests: AtomicU64,
    replies: AtomicU64,
}

impl Proxy {
    pub async fn before(redis: u16) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let (port, lose) = (
            listener.local_addr().unwrap().port(),
            Arc::new(AtomicBool::new(false)),
        );
        let weather = watch::Sender::new(Weather::default());
        let redis = Arc::new(AtomicU16::new(redis));
        let (behind, losing, watching) = (redis.clone(), lose.clone(), weather.subscribe());
        let connections: Arc<Mutex<Vec<Arc<Carried>>>> = Arc::default();
        let opened = connections.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let redis = behind.load(Ordering::SeqCst);
                let carried = Arc::<Carried>::default();
                opened.lock().unwrap().push(carried.clone());
                tokio::spawn(pass(client, redis, losing.clone(), watching.clone(), carried));
            }
        });
        Self {
            port,
            redis,
            lose,
            weather,
            connections,
        }
    }

    /// Bytes of the requests and of the replies of each connection so far.
    pub fn carried(&self) -> Vec<(u64, u64)> {
        let connections = self.connections.lock().unwrap();
        let bytes = |count: &AtomicU64| count.load(Ordering::SeqCst);
        connections
            .iter()
            .map(|carried| (bytes(&carried.requests), bytes(&carried.replies)))
            .collect()
    }

    /// New connections lead to that port; those that stand stay where they are.
    pub fn lead_to(&self, redis: u16) {
        self.redis.store(redis, Ordering::SeqCst);
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// The next reply is lost, and its connection with it.
    pub fn lose_next_reply(&self) {
        self.lose.store(true, Ordering::SeqCst);
    }

    pub fn has_lost_it(&self) -> bool {
        !self.lose.load(Ordering::SeqCst)
    }

    /// Replies wait here until they are let go.
    pub fn hold_replies(&self, hold: bool) {
        self.weather.send_modify(|weather| weather.holds_replies = hold);
    }

    /// Changes the weather; what is not named is fine.
    pub fn set(&self, weather: Weather) {
        self.weather.send_modify(|now| {
            *now = Weather {
                cuts: now.cuts,
                ..weather
            }
        });
    }

    /// Cuts every connection; the next may come at once.
    pub fn cut(&self) {
        self.weather.send_modify(|weather| weather.cuts += 1);
    }
}

async fn pass(
    client: TcpStream,
    redis: u16,
    lose: Arc<AtomicBool>,
    mut weather: watch::Receiver<Weather>,
    carried: Arc<Carried>,
) -> io::Result<()> {
    let cuts = weather.borrow().cuts;
    let server = TcpStream::connect((Ipv4Addr::LOCALHOST, redis)).await?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let never = AtomicBool::new(false);
    tokio::select! {
        ended = carry(from_client, to_server, &carried.requests, false, &never, weather.clone()) => ended,
        ended = carry(from_server, to_client, &carried.replies, true, &lose, weather.clone()) => ended,
        _ = weather.wait_for(|weather| weather.cuts != cuts) => Ok(()),
    }
}

/// Carries bytes one way until either end closes, or a reply is to be lost.
async fn carry(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    carried: &AtomicU64,
    replies: bool,
    lose: &AtomicBool,
    mut weather: watch::Receiver<Weather>,
) -> io::Result<()> {
    let mut buffer = [0; 16 * 1024];
    let closed = |_| io::Error::from(io::ErrorKind::ConnectionAborted);
    loop {
        let blocks = |w: &Weather| w.is_half_open || (replies && w.holds_replies);
        let now = *weather.wait_for(|w| !blocks(w)).await.map_err(closed)?;
        let sip = now.sip.filter(|_| replies);
        let most = sip.unwrap_or(buffer.len()).clamp(1, buffer.len());
        let n = tokio::select! {
            biased;
            changed = weather.changed() => {
                changed.map_err(closed)?;
                continue;
            }
            n = from.read(&mut buffer[..most]) => n?,
        };
        if n == 0 || lose.swap(false, Ordering::SeqCst) {
            return Ok(());
        }
        if sip.is_some() {
            tokio::time::sleep(SIP_EVERY).await;
        }
        if !now.latency.is_zero() {
            tokio::time::sleep(now.latency).await;
        }
        carried.fetch_add(n as u64, Ordering::SeqCst);
        to.write_all(&buffer[..n]).await?;
    }
}
