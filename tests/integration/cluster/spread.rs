//! Fleets spread over the nodes of a cluster: each has a tag, and so a slot, of its own.

use std::collections::HashMap;

use super::*;

const JOBS: usize = 200;

/// Commands that a node has run, those inside of scripts included.
async fn commands(cluster: &TestCluster, at: usize) -> u64 {
    let stats: String = cluster.ask(at, &["INFO", "commandstats"]).await;
    let calls = stats.lines().filter_map(|line| {
        let (name, rest) = line.strip_prefix("cmdstat_")?.split_once(":calls=")?;
        let is_of_test = ["cluster", "info", "ping", "replconf", "hello", "client"]
            .iter()
            .any(|own| name.starts_with(own));
        (!is_of_test).then(|| rest.split(',').next()?.parse::<u64>().ok())?
    });
    calls.sum()
}

/// Claims and completes jobs of one queue in each of six fleets, and prints the commands that each node has run.
#[tokio::test]
#[ignore = "prints the table of docs/redis-cluster.md"]
async fn commands_of_six_fleets_on_one_three_and_six_nodes() {
    for nodes in [1, 3, 6] {
        let cluster = TestCluster::start(nodes, 0).await;
        let share = 16_384_usize.div_ceil(nodes);
        // Six tags whose slots lie on the nodes in turn.
        let mut tags: HashMap<usize, Vec<String>> = HashMap::new();
        for tag in (0..500).map(|n| format!("fleet{n}")) {
            let slot = backend_worker::keys::slot_of(&format!("{{{tag}}}"));
            let of_node = tags.entry(usize::from(slot) / share).or_default();
            if of_node.len() < 6 / nodes {
                of_node.push(tag);
            }
        }
        let mut before = Vec::new();
        for at in 0..nodes {
            before.push(commands(&cluster, at).await);
        }
        for tag in tags.values().flatten() {
            let connection = Connection::open(&cluster.address_of(tag)).unwrap();
            let broker = BullmqBroker::new(connection, QUEUE, "w", BrokerOptions::default());
            let broker: Arc<dyn Broker> = Arc::new(broker.under_prefix(&format!("{{{tag}}}")));
            add_jobs(&*broker, "j", JOBS).await;
            broker.renew(&[]).await.unwrap();
            let mut number = ClaimNumber::FIRST;
            let mut left = JOBS;
            while left > 0 {
                for delivery in broker.claim(number, 8).await.unwrap() {
                    broker.complete(&delivery.lease, "{}").await.unwrap();
                    left -= 1;
                }
                number = number.next();
            }
        }
        let mut ran = Vec::new();
        for (at, before) in before.into_iter().enumerate() {
            ran.push(commands(&cluster, at).await - before);
        }
        let most = *ran.iter().max().unwrap();
        println!(
            "{nodes} nodes: {ran:?} commands, the busiest {most}, {:.1} a job of all",
            ran.iter().sum::<u64>() as f64 / (6 * JOBS) as f64
        );
        assert_eq!(tags.values().flatten().count(), 6);
    }
}
