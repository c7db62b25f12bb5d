//! A receiver of usage events that checks each call as Standard Webhooks ask for, and fails on demand.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::{
    Router,
    body::Bytes,
    extract::State,
    http::{HeaderMap, StatusCode},
    routing::post,
};
use base64::{Engine, prelude::BASE64_STANDARD};
use ring::hmac;
use serde_json::Value;
use tokio::{net::TcpListener, task::JoinHandle};

use crate::eventually;

/// How it answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manner {
    Well,
    /// Well, after a while.
    Slow,
    Failing(u16),
    /// It takes the event, and never answers.
    Silent,
    /// Its port is closed.
    Down,
}

/// A call that was taken.
#[derive(Debug, Clone)]
pub struct Call {
    pub key: String,
    pub apikey: String,
    pub body: Value,
}

#[derive(Debug)]
struct Inner {
    secret: hmac::Key,
    manner: Mutex<Manner>,
    refused: Mutex<(String, u16)>,
    taken: Mutex<Vec<Call>>,
    asked: AtomicUsize,
}

#[derive(Debug)]
pub struct Receiver {
    address: SocketAddr,
    inner: Arc<Inner>,
    server: Mutex<Option<JoinHandle<()>>>,
}

impl Receiver {
    pub async fn start(secret: &str) -> Self {
        let secret = BASE64_STANDARD
            .decode(secret.strip_prefix("whsec_").unwrap())
            .unwrap();
        let inner = Inner {
            secret: hmac::Key::new(hmac::HMAC_SHA256, &secret),
            manner: Mutex::new(Manner::Well),
            refused: Mutex::default(),
            taken: Mutex::default(),
            asked: AtomicUsize::new(0),
        };
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let receiver = Self {
            address: listener.local_addr().unwrap(),
            inner: Arc::new(inner),
            server: Mutex::default(),
        };
        receiver.serve(listener);
        receiver
    }

    fn serve(&self, listener: TcpListener) {
        let routes = Router::new()
            .route("/rpc/increment_tokens", post(take))
            .with_state(self.inner.clone());
        let server = tokio::spawn(async move { axum_server(listener, routes).await });
        *self.server.lock().unwrap() = Some(server);
    }

    pub fn url(&self) -> String {
        format!("http://{}/rpc/increment_tokens", self.address)
    }

    pub async fn be(&self, manner: Manner) {
        *self.inner.manner.lock().unwrap() = manner;
        let server = self.server.lock().unwrap().take();
        match (manner, server) {
            (Manner::Down, Some(server)) => {
                server.abort();
                let _ = server.await;
            }
            (Manner::Down, None) => {}
            (_, Some(server)) => *self.server.lock().unwrap() = Some(server),
            (_, None) => {
                let listener = eventually("the port is free", async || {
                    TcpListener::bind(self.address).await.ok()
                })
                .await;
                self.serve(listener);
            }
        }
    }

    /// Refuses events whose body contains `text`.
    pub fn refuse(&self, text: &str, status: u16) {
        *self.inner.refused.lock().unwrap() = (text.to_owned(), status);
    }

    pub fn taken(&self) -> Vec<Call> {
        self.inner.taken.lock().unwrap().clone()
    }

    /// Waits until it has been asked so many more times.
    pub async fn until_asked(&self, times: usize) {
        let before = self.inner.asked.load(Ordering::SeqCst);
        eventually(&format!("{times} more calls"), async || {
            (self.inner.asked.load(Ordering::SeqCst) >= before + times).then_some(())
        })
        .await;
    }
}

/// Serves until it is aborted, and ends its connections with it.
async fn axum_server(listener: TcpListener, routes: Router) {
    use hyper_util::{rt::TokioIo, service::TowerToHyperService};
    let mut connections = tokio::task::JoinSet::new();
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            continue;
        };
        let service = TowerToHyperService::new(routes.clone());
        connections.spawn(async move {
            let _ = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
    }
}

async fn take(State(inner): State<Arc<Inner>>, headers: HeaderMap, body: Bytes) -> StatusCode {
    let manner = *inner.manner.lock().unwrap();
    let header = |name: &str| {
        headers
            .get(name)
            .map(|value| value.to_str().unwrap().to_owned())
            .unwrap_or_default()
    };
    let (key, time) = (header("webhook-id"), header("webhook-timestamp"));
    assert!(!key.is_empty() && time.parse::<u64>().is_ok());
    assert_eq!(header("content-type"), "application/json");
    if let Some(signature) = header("webhook-signature").strip_prefix("v1,") {
        let signed = [format!("{key}.{time}.").as_bytes(), &body].concat();
        let signature = BASE64_STANDARD.decode(signature).unwrap();
        hmac::verify(&inner.secret, &signed, &signature).expect("the signature is right");
    }
    let call = Call {
        key,
        apikey: header("apikey"),
        body: serde_json::from_slice(&body).expect("the body is JSON"),
    };
    inner.asked.fetch_add(1, Ordering::SeqCst);
    let refused = inner.refused.lock().unwrap().clone();
    if !refused.0.is_empty() && String::from_utf8_lossy(&body).contains(&refused.0) {
        return StatusCode::from_u16(refused.1).unwrap();
    }
    if let Manner::Failing(status) = manner {
        return StatusCode::from_u16(status).unwrap();
    }
    inner.taken.lock().unwrap().push(call);
    match manner {
        Manner::Silent => std::future::pending().await,
        Manner::Slow => tokio::time::sleep(Duration::from_millis(100)).await,
        _ => {}
    }
    StatusCode::NO_CONTENT
}
