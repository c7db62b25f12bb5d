//! Everything that moves jobs, in an order that a seed determines: two replicas claim, give back, retry, complete and
//! die, while jobs of several priorities come, are removed, and the queue pauses.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use backend_worker::queue::{Broker, ClaimNumber, JobState, Layout, Lease, Postponement};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use rstest::rstest;
use serde_json::json;

use super::{add_raw, fair_keys};
use crate::support::{Node, TestRedis, eventually, view};

const OWNERS: usize = 5;
/// Priorities of BullMQ's jobs, 0 the most urgent.
const PRIORITIES: u32 = 3;
const STEPS: usize = 90;
/// A killed replica's jobs go back after so long.
const LEASE_TTL: Duration = Duration::from_secs(2);
/// How often one owner may be taken while another one waits: the round that is under way, and the next one.
const MOST_PASSES: usize = 2;

/// A replica, as the queue knows it.
struct Replica {
    broker: Arc<dyn Broker>,
    number: ClaimNumber,
    held: Vec<Lease>,
}

/// Jobs of one owner and priority that one claim has taken.
#[derive(Default)]
struct Taken {
    /// For the first time.
    fresh: usize,
    all: usize,
}

/// The queue under test, and the record of what must be in it.
struct Scene {
    redis: TestRedis,
    node: Option<Node>,
    layout: Layout,
    seed: u64,
    rng: StdRng,
    replicas: [Replica; 2],
    started: usize,
    added: usize,
    priority_of: HashMap<String, u32>,
    /// Jobs that certainly wait, and never have been claimed.
    waiting: HashSet<String>,
    /// Jobs that were claimed before and are back in the queue, or on their way: they have used their turn.
    returned: HashSet<String>,
    ended: HashSet<String>,
    /// Of each owner and priority that waits (`<owner>:<priority>`), how often each other one was taken since.
    passes: HashMap<(String, String), usize>,
    done: BTreeMap<&'static str, usize>,
}

fn owner_of(id: &str) -> &str {
    id.split('-').next().unwrap_or_default()
}

/// The priority in `<owner>:<priority>`.
fn priority_of_level(level: &str) -> &str {
    level.split(':').next_back().unwrap_or_default()
}

impl Scene {
    async fn set(layout: Layout, seed: u64) -> Self {
        let redis = TestRedis::start().await;
        let node = match layout {
            Layout::Bullmq => Some(Node::start(&redis, "q").await),
            Layout::Apalis => None,
        };
        let replicas = [start(&redis, layout, 0).await, start(&redis, layout, 1).await];
        Self {
            redis,
            node,
            layout,
            seed,
            rng: StdRng::seed_from_u64(seed),
            replicas,
            started: 2,
            added: 0,
            priority_of: HashMap::new(),
            waiting: HashSet::new(),
            returned: HashSet::new(),
            ended: HashSet::new(),
            passes: HashMap::new(),
            done: BTreeMap::new(),
        }
    }

    fn below(&mut self, end: usize) -> usize {
        self.rng.random_range(0..end)
    }

    fn some_of(&mut self, replica: usize) -> Vec<Lease> {
        let mut some = Vec::new();
        for lease in std::mem::take(&mut self.replicas[replica].held) {
            match self.rng.random_bool(0.5) {
                true => some.push(lease),
                false => self.replicas[replica].held.push(lease),
            }
        }
        some
    }

    fn count(&mut self, step: &'static str, times: usize) {
        *self.done.entry(step).or_default() += times;
    }

    async fn add(&mut self) {
        let (owner, count) = (format!("s{}", self.below(OWNERS)), self.below(25) + 1);
        let ids: Vec<String> = (self.added..self.added + count)
            .map(|n| format!("{owner}-{n}"))
            .collect();
        let priority = match &self.node {
            Some(node) => {
                let priority = self.rng.random_range(0..PRIORITIES);
                let job = |id: &String| {
                    json!({ "name": "generate-flashcards", "data": { "content": "x", "userId": owner },
                        "opts": { "jobId": id, "priority": priority, "attempts": 1000 } })
                };
                let jobs: Vec<_> = ids.iter().map(job).collect();
                node.ask("addBulk", json!({ "jobs": jobs })).await;
                priority
            }
            None => {
                for id in &ids {
                    let payload = format!(r#"{{"content":"x","userId":"{owner}"}}"#);
                    add_raw(&*self.replicas[0].broker, id, &payload).await;
                }
                0
            }
        };
        self.added += count;
        for id in ids {
            self.priority_of.insert(id.clone(), priority);
            self.waiting.insert(id);
        }
        self.count("added", count);
    }

    async fn claim(&mut self, replica: usize) {
        let count = self.below(6) + 1;
        let replica = &mut self.replicas[replica];
        let claimed = replica.broker.claim(replica.number, count).await.unwrap();
        replica.number = replica.number.next();
        replica
            .held
            .extend(claimed.iter().map(|delivery| delivery.lease.clone()));
        self.count("claimed", claimed.len());
        let mut taken = HashMap::new();
        for delivery in claimed {
            self.check_claimed(&delivery.lease.id, &mut taken);
        }
        self.count_passes(&taken);
    }

    /// Compares one job that a claim has returned with the record, and counts it in its owner's `taken` ones.
    fn check_claimed(&mut self, id: &str, taken: &mut HashMap<String, Taken>) {
        let (seed, priority) = (self.seed, self.priority_of[id]);
        // A job that came back is its owner's turn, and passes no other one over: it has waited for longer.
        if self.returned.remove(id) {
            for priority in 0..PRIORITIES {
                let of_owner: &mut Taken = taken.entry(format!("{}:{priority}", owner_of(id))).or_default();
                of_owner.all += 1;
            }
            return;
        }
        assert!(
            self.waiting.remove(id),
            "seed {seed}: {id} is claimed, and did not wait"
        );
        let before = self
            .waiting
            .iter()
            .find(|other| self.priority_of[*other] < priority);
        assert_eq!(
            before, None,
            "seed {seed}: {id} of priority {priority} came first"
        );
        let of_owner = taken.entry(format!("{}:{priority}", owner_of(id))).or_default();
        (of_owner.fresh, of_owner.all) = (of_owner.fresh + 1, of_owner.all + 1);
    }

    /// Counts how often those who still wait were passed over. The jobs of one claim start together.
    fn count_passes(&mut self, taken: &HashMap<String, Taken>) {
        let waits: HashSet<String> = self
            .waiting
            .iter()
            .map(|id| format!("{}:{}", owner_of(id), self.priority_of[id]))
            .collect();
        self.passes
            .retain(|(one, _), _| waits.contains(one) && !taken.contains_key(one));
        for one in waits {
            let of_same_priority =
                |owner: &&String| **owner != one && priority_of_level(owner) == priority_of_level(&one);
            for owner in taken.keys().filter(of_same_priority) {
                let times = match taken.get(&one) {
                    Some(own) => taken[owner].fresh.saturating_sub(own.all),
                    None => {
                        let times = self.passes.entry((one.clone(), owner.clone())).or_default();
                        *times += taken[owner].fresh;
                        *times
                    }
                };
                assert!(
                    times <= MOST_PASSES,
                    "seed {}: {owner} was taken {times} times while {one} waited: {:?}",
                    self.seed,
                    self.done
                );
            }
        }
    }

    async fn release(&mut self, replica: usize) {
        let leases = self.some_of(replica);
        let released = self.replicas[replica].broker.release(&leases).await.unwrap();
        assert_eq!(released, leases.len(), "seed {}", self.seed);
        self.count("released", released);
        self.returned
            .extend(leases.iter().map(|lease| lease.id.to_string()));
    }

    async fn retry(&mut self, replica: usize) {
        let leases = self.some_of(replica);
        for lease in &leases {
            let later = Postponement {
                delay: Duration::from_millis(1),
                counts: true,
                reason: "the provider failed",
                gate: None,
                note: None,
            };
            self.replicas[replica]
                .broker
                .retry_at(lease, later)
                .await
                .unwrap();
            self.returned.insert(lease.id.to_string());
        }
        self.count("retried", leases.len());
    }

    async fn complete(&mut self, replica: usize) {
        let leases = self.some_of(replica);
        for lease in &leases {
            self.replicas[replica]
                .broker
                .complete(lease, r#"{"success":true}"#)
                .await
                .unwrap();
            self.ended.insert(lease.id.to_string());
        }
        self.count("completed", leases.len());
    }

    async fn remove(&mut self) {
        let Some(id) = self.waiting.iter().min().cloned() else {
            return;
        };
        self.replicas[0].broker.remove(&id).await.unwrap();
        self.waiting.remove(&id);
        self.ended.insert(id);
        self.count("removed", 1);
    }

    /// While the queue is paused jobs come, and none is claimed.
    async fn pause(&mut self) {
        self.replicas[0].broker.set_paused(true).await.unwrap();
        self.add().await;
        for replica in &mut self.replicas {
            let claimed = replica.broker.claim(replica.number, 3).await.unwrap();
            replica.number = replica.number.next();
            assert!(
                claimed.is_empty(),
                "seed {}: claimed from a paused queue",
                self.seed
            );
        }
        self.replicas[1].broker.set_paused(false).await.unwrap();
        self.count("paused", 1);
    }

    /// A replica dies with all that it holds; the other one gives its jobs back, and a new one comes.
    async fn kill(&mut self, dead: usize) {
        let lost = std::mem::take(&mut self.replicas[dead].held);
        let survivor = &self.replicas[1 - dead];
        eventually("the jobs of the killed replica are back", async || {
            survivor.broker.renew(&survivor.held).await.unwrap();
            survivor.broker.recover().await.unwrap();
            for lease in &lost {
                if view(&*survivor.broker, &lease.id).await.state == JobState::Active {
                    return None;
                }
            }
            Some(())
        })
        .await;
        self.returned
            .extend(lost.iter().map(|lease| lease.id.to_string()));
        self.replicas[dead] = start(&self.redis, self.layout, self.started).await;
        self.started += 1;
        self.count("killed", 1);
        self.count("lost", lost.len());
    }

    async fn step(&mut self) {
        for replica in &self.replicas {
            let lost = replica.broker.renew(&replica.held).await.unwrap();
            assert!(lost.is_empty(), "seed {}: {lost:?}", self.seed);
        }
        let replica = self.below(2);
        match self.below(30) {
            0..6 => self.add().await,
            6..18 => self.claim(replica).await,
            18..20 => self.release(replica).await,
            20..23 => self.retry(replica).await,
            23..26 => self.complete(replica).await,
            26 => self.remove().await,
            27..29 => self.pause().await,
            _ => self.kill(replica).await,
        }
    }

    /// Claims and completes until every job has ended, once.
    async fn drain(&mut self) {
        while self.ended.len() < self.added {
            for replica in 0..2 {
                self.claim(replica).await;
                for lease in std::mem::take(&mut self.replicas[replica].held) {
                    let result = self.replicas[replica]
                        .broker
                        .complete(&lease, r#"{"success":true}"#)
                        .await;
                    result.unwrap();
                    let is_first = self.ended.insert(lease.id.to_string());
                    assert!(is_first, "seed {}: {} ended twice", self.seed, lease.id);
                }
                let replica = &self.replicas[replica];
                replica.broker.renew(&replica.held).await.unwrap();
            }
        }
        assert!(self.waiting.is_empty() && self.returned.is_empty());
    }
}

async fn start(redis: &TestRedis, layout: Layout, nth: usize) -> Replica {
    let broker = redis.broker_with(layout, "q", &format!("w{nth}"), LEASE_TTL);
    broker.renew(&[]).await.unwrap();
    Replica {
        broker,
        number: ClaimNumber::FIRST,
        held: Vec::new(),
    }
}

#[rstest]
#[case::apalis(Layout::Apalis)]
#[case::bullmq(Layout::Bullmq)]
#[tokio::test]
async fn no_owner_is_passed_over_for_more_than_a_round_whatever_happens(#[case] layout: Layout) {
    let mut all: BTreeMap<&str, usize> = BTreeMap::new();
    for seed in 1..=3 {
        let mut scene = Scene::set(layout, seed).await;
        for _ in 0..STEPS {
            scene.step().await;
        }
        scene.drain().await;
        // A claim without work clears what others have left.
        scene.claim(0).await;
        assert_eq!(fair_keys(&scene.redis).await, Vec::<String>::new(), "seed {seed}");
        for (step, times) in scene.done {
            *all.entry(step).or_default() += times;
        }
    }
    let steps = [
        "added",
        "claimed",
        "released",
        "retried",
        "completed",
        "removed",
        "paused",
        "killed",
        "lost",
    ];
    assert!(
        steps
            .iter()
            .all(|step| all.get(step).is_some_and(|times| *times > 0)),
        "{all:?}"
    );
}
