//! Jobs that kill their replicas, among many that do not: each fails as poison under its own name, and takes no other
//! job along but those in flight at its first death. Recordings that used to kill replicas take none along at all.
//!
//! By default 60 jobs and two killers in each layout. The long run is a killer a minute among 2,000 jobs of ten
//! seconds: `KILLERS=7 KILLERS_JOBS=2000 KILLERS_SECONDS=420 KILLERS_CALL_MS=10000 KILLERS_SLOTS=20 cargo test
//! --locked --test integration killers::apalis -- --nocapture --test-threads 1`

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use backend_worker::{
    queue::{Broker, JobState, Layout},
    simulator::Provider,
};
use base64::{Engine, prelude::BASE64_STANDARD};
use jobs::JobType;
use nix::sys::signal::Signal;
use rstest::rstest;
use serde_json::{Value, json};

use crate::{
    hostile_media,
    support::{self, Scene, SilentServer, Worker, view},
};

const REPLICAS: usize = 4;

fn number(name: &str, usual: u64) -> u64 {
    std::env::var(name).map_or(usual, |text| text.parse().unwrap())
}

async fn add_deck(broker: &dyn Broker, id: &str) {
    let payload = json!({"content": id, "subject": "s", "topic": "t", "userId": id});
    add(broker, id, JobType::GenerateFlashcards, &payload).await;
}

async fn add(broker: &dyn Broker, id: &str, kind: JobType, payload: &Value) {
    support::add(broker, id, kind, &payload.to_string(), 3).await;
}

/// The jobs that a replica holds.
async fn held(scene: &Scene, layout: Layout, worker: &Worker) -> BTreeSet<String> {
    if layout == Layout::Apalis {
        let inflight = format!("ai-jobs:inflight:{}", worker.name);
        return scene.redis.ask(&["SMEMBERS", &inflight]).await;
    }
    let mut held = BTreeSet::new();
    let active: Vec<String> = scene
        .redis
        .ask(&["LRANGE", "bull:ai-jobs:active", "0", "-1"])
        .await;
    for id in active {
        let lock: Option<String> = scene
            .redis
            .ask(&["GET", &format!("bull:ai-jobs:{id}:lock")])
            .await;
        if lock.is_some_and(|token| token.starts_with(&format!("{}:", worker.name))) {
            held.insert(id);
        }
    }
    held
}

/// What the killers did.
#[derive(Default)]
struct Deaths {
    /// By killer.
    of: BTreeMap<String, usize>,
    /// First deaths that a job was in flight at, by job.
    first: BTreeMap<String, usize>,
}

struct Fleet<'a> {
    scene: &'a Scene,
    layout: Layout,
    env: Vec<(&'a str, &'a str)>,
    workers: Vec<Worker>,
}

impl Fleet<'_> {
    /// Kills the replica that runs this killer, as the killer would, and starts another.
    async fn dies_of(&mut self, killer: &str, deaths: &mut Deaths) {
        for place in 0..self.workers.len() {
            let worker = &self.workers[place];
            // Still, so that what it holds does not change before it dies.
            worker.signal(Signal::SIGSTOP);
            let held = held(self.scene, self.layout, worker).await;
            if !held.contains(killer) {
                worker.signal(Signal::SIGCONT);
                continue;
            }
            worker.signal(Signal::SIGKILL);
            let nth = deaths.of.entry(killer.to_owned()).or_default();
            *nth += 1;
            if *nth == 1 {
                for other in held.into_iter().filter(|id| id != killer) {
                    *deaths.first.entry(other).or_default() += 1;
                }
            }
            let next = self.scene.worker(&self.env).await;
            std::mem::replace(&mut self.workers[place], next).ended().await;
            return;
        }
    }
}

#[rstest]
#[case::apalis(Layout::Apalis)]
#[case::bullmq(Layout::Bullmq)]
#[tokio::test]
async fn killers_take_no_job_along_but_at_their_first_death(#[case] layout: Layout) {
    let killers = usize::try_from(number("KILLERS", 2)).unwrap();
    let jobs = usize::try_from(number("KILLERS_JOBS", 60)).unwrap();
    let over = Duration::from_secs(number("KILLERS_SECONDS", 4));
    let slots = number("KILLERS_SLOTS", 3);
    let call = Duration::from_millis(number("KILLERS_CALL_MS", 300));
    let (scene, silence) = (Scene::set(call).await, SilentServer::open());
    let broker = scene.redis.broker(layout, "ai-jobs", "onlooker");
    let queues = format!("{layout}:ai-jobs={slots}");
    let mut fleet = Fleet {
        scene: &scene,
        layout,
        env: vec![
            ("QUEUES", queues.as_str()),
            ("LEASE_TTL", "5s"),
            ("MEDIA_ALLOWED_HOSTS", silence.host.as_str()),
            ("MEDIA_TIMEOUT", "1m"),
        ],
        workers: Vec::new(),
    };
    for _ in 0..REPLICAS {
        fleet.workers.push(scene.worker(&fleet.env).await);
    }
    let id = |n: usize| format!("job-{n}");
    let killer = |n: usize| format!("job-killer-{n}");
    let journal = scene.simulator.journal();
    let calls = || {
        let mut calls = BTreeMap::<String, usize>::new();
        for call in journal.of(Provider::OpenAi) {
            *calls.entry(call.marker).or_default() += 1;
        }
        calls
    };
    let began = Instant::now();
    let produced = async {
        for n in 0..jobs {
            add_deck(&*broker, &id(n)).await;
            // In the middle of each stretch.
            if (n * killers + jobs / 2) % jobs < killers {
                let name = killer(n * killers / jobs);
                let payload = json!({"imageUrl": format!("http://{}/{name}", silence.host)});
                add(&*broker, &name, JobType::ProcessImage, &payload).await;
            }
            tokio::time::sleep(over / u32::try_from(jobs).unwrap()).await;
        }
    };
    let (mut deaths, mut seen) = (Deaths::default(), BTreeMap::new());
    let killed = async {
        loop {
            for n in 0..killers {
                let killer = killer(n);
                let asked = silence.asked_for(&killer);
                let seen = seen.entry(killer.clone()).or_insert(0);
                if asked > *seen {
                    *seen = asked;
                    fleet.dies_of(&killer, &mut deaths).await;
                }
            }
            let counts = broker.counts().await.unwrap();
            if counts.completed + counts.failed >= (jobs + killers) as u64 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::join!(produced, killed);

    for n in 0..killers {
        let (killer, job) = (killer(n), view(&*broker, &killer(n)).await);
        // Three deaths count. Of a group of suspects none is blamed, and the first may have been that of another
        // killer.
        assert_eq!(job.state, JobState::Failed, "{killer}");
        assert!((2..=4).contains(&deaths.of[&killer]), "{killer}: {:?}", deaths.of);
        let error = job.error.unwrap();
        assert!(
            error.contains("poison: 3 deliveries ended without"),
            "{killer}: {error}"
        );
    }
    let calls = calls();
    let mut again = 0;
    for n in 0..jobs {
        let (id, job) = (id(n), view(&*broker, &id(n)).await);
        assert_eq!(job.state, JobState::Completed, "{id}: {:?}", job.error);
        let first = deaths.first.get(&id).copied().unwrap_or_default();
        assert!(
            calls[&id] <= 1 + first,
            "{id} was called {} times, and was in flight at {first} first deaths",
            calls[&id]
        );
        again += calls[&id] - 1;
    }
    println!(
        "{layout}: {jobs} jobs, {killers} killers, {} deaths, {:.0} s: no other job failed, {again} calls in flight at a \
         first death were made again, none at a later one",
        deaths.of.values().sum::<usize>(),
        began.elapsed().as_secs_f64()
    );
}

/// The recordings of issue 16 among jobs whose calls are under way: no replica dies, so no call is made again.
#[rstest]
#[case::apalis(Layout::Apalis)]
#[case::bullmq(Layout::Bullmq)]
#[tokio::test]
async fn recordings_made_to_kill_take_no_job_along(#[case] layout: Layout) {
    let killers = usize::try_from(number("KILLERS", 4)).unwrap();
    let jobs = usize::try_from(number("KILLERS_JOBS", 40)).unwrap();
    let over = Duration::from_secs(number("KILLERS_SECONDS", 2));
    let slots = number("KILLERS_SLOTS", 3);
    let scene = Scene::set(Duration::from_millis(number("KILLERS_CALL_MS", 300))).await;
    let broker = scene.redis.broker(layout, "ai-jobs", "onlooker");
    let queues = format!("{layout}:ai-jobs={slots}");
    let mut workers = Vec::new();
    for _ in 0..REPLICAS {
        workers.push(
            scene
                .worker(&[("QUEUES", queues.as_str()), ("LEASE_TTL", "5s")])
                .await,
        );
    }
    let recordings = hostile_media::refused();
    let began = Instant::now();
    for n in 0..jobs {
        add_deck(&*broker, &format!("job-{n}")).await;
        if (n * killers + jobs / 2) % jobs < killers {
            let nth = n * killers / jobs;
            let (_, bytes, _) = &recordings[nth % recordings.len()];
            let payload =
                json!({"referenceText": "Good morning", "audioBase64": BASE64_STANDARD.encode(bytes)});
            add(
                &*broker,
                &format!("killer-{nth}"),
                JobType::AssessPronunciation,
                &payload,
            )
            .await;
        }
        tokio::time::sleep(over / u32::try_from(jobs).unwrap()).await;
    }
    while {
        let counts = broker.counts().await.unwrap();
        counts.completed + counts.failed < (jobs + killers) as u64
    } {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    for nth in 0..killers {
        let (job, (name, _, why)) = (
            view(&*broker, &format!("killer-{nth}")).await,
            &recordings[nth % recordings.len()],
        );
        let error = job.error.unwrap_or_default();
        assert!(
            job.state == JobState::Failed && error.contains(why),
            "{name}: {error}"
        );
    }
    let journal = scene.simulator.journal();
    let mut calls = BTreeMap::<String, usize>::new();
    for call in journal.of(Provider::OpenAi) {
        *calls.entry(call.marker).or_default() += 1;
    }
    for n in 0..jobs {
        let id = format!("job-{n}");
        let job = view(&*broker, &id).await;
        assert_eq!(
            (job.state, calls[&id]),
            (JobState::Completed, 1),
            "{id}: {:?}",
            job.error
        );
    }
    for worker in &mut workers {
        assert!(!worker.has_ended());
    }
    println!(
        "{layout}: {jobs} jobs, {killers} recordings made to kill, {:.0} s: no replica died, no other job failed, none was \
         paid for twice",
        began.elapsed().as_secs_f64()
    );
}
