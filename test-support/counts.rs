//! What Redis has done so far, by its own count. Commands inside of scripts count too.

use std::{collections::HashMap, time::Duration};

use crate::TestRedis;

impl TestRedis {
    /// How often each command has run.
    pub async fn calls_by_command(&self) -> HashMap<String, u64> {
        let info: String = self.ask(&["INFO", "commandstats"]).await;
        let counted = info.lines().filter_map(|line| {
            let (command, stats) = line.strip_prefix("cmdstat_")?.split_once(":calls=")?;
            Some((command.to_owned(), stats.split(',').next()?.parse().unwrap()))
        });
        counted.collect()
    }

    /// How often one command has run.
    pub async fn calls(&self, command: &str) -> u64 {
        self.calls_by_command().await.remove(command).unwrap_or_default()
    }

    /// How many scripts have run, evaluated or as functions.
    pub async fn scripts(&self) -> u64 {
        self.calls("evalsha").await + self.calls("fcall").await
    }

    /// Watches Redis while a replica has nothing to do, and holds that it is asked next to nothing.
    pub async fn is_left_in_peace(&self) {
        let commands = async || {
            let stats: String = self.ask(&["INFO", "stats"]).await;
            let line = stats
                .lines()
                .find_map(|line| line.strip_prefix("total_commands_processed:"));
            line.unwrap().trim().parse::<u64>().unwrap()
        };
        let by_command = self.calls_by_command().await;
        let (before, seconds) = (commands().await, 16);
        tokio::time::sleep(Duration::from_secs(seconds)).await; // The length of the watch, not a hope.
        let spent = commands().await - before - 1;
        let mut more = self.calls_by_command().await;
        more.retain(|command, calls| {
            *calls -= by_command.get(command).copied().unwrap_or_default();
            *calls > 0
        });
        // Three a second, and the two by which this test looks.
        assert!(
            spent <= 3 * seconds + 2,
            "{spent} commands in {seconds} s, those inside of scripts included: {more:?}"
        );
    }
}
