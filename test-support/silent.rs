//! A server that never answers.

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader},
    net::TcpListener,
    sync::{Arc, Mutex},
    thread,
};

/// Takes requests, counts them by their paths, and never answers: a job that loads a medium from here prepares its
/// call until the test does something about it.
pub struct SilentServer {
    pub host: String,
    asked: Arc<Mutex<BTreeMap<String, usize>>>,
}

impl SilentServer {
    pub fn open() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let host = listener.local_addr().unwrap().to_string();
        let asked: Arc<Mutex<BTreeMap<String, usize>>> = Arc::default();
        let counted = asked.clone();
        thread::spawn(move || {
            let mut kept = Vec::new();
            for socket in listener.incoming() {
                let mut reader = BufReader::new(socket.unwrap());
                let mut line = String::new();
                let _ = reader.read_line(&mut line);
                let name = line.split(' ').nth(1).unwrap_or_default().trim_matches('/');
                *counted.lock().unwrap().entry(name.to_owned()).or_default() += 1;
                kept.push(reader);
            }
        });
        Self { host, asked }
    }

    /// How often the path was asked for.
    pub fn asked_for(&self, name: &str) -> usize {
        self.asked.lock().unwrap().get(name).copied().unwrap_or_default()
    }
}
