//! What money costs Redis: the scripts of a paid call, against those of the ledger before it knew money (57d4a20^),
//! in turns on one server. Redis's own clock measures (`INFO commandstats`), so this process's speed does not matter.
//!
//! `cargo bench --bench money`

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context;
use backend_worker::{
    connection::Connection,
    demo::PrivateRedis,
    script::{Script, ScriptCall},
};
use redis::aio::MultiplexedConnection;

const OPEN_BEFORE: &str = include_str!("open_before.lua");
const KEEP_BEFORE: &str = include_str!("keep_before.lua");
const BOOKS: &str = include_str!("../../src/spending/books.lua");
const SUMS: &str = include_str!("../../src/spending/sums.lua");
const OPEN: &str = include_str!("../../src/spend_ledger/open.lua");
const CLOSE: &str = include_str!("../../src/spend_ledger/close.lua");
const ROW: &str = "openai|gpt-6-luna|generate-flashcards";
const ENTRY: &str = "0123456789abcdef:deck";
/// Calls of one measurement, and measurements of each kind.
const CALLS: usize = 256;
const ROUNDS: usize = 41;

struct Bench {
    connection: MultiplexedConnection,
    scripts: Connection,
    before: [Script; 2],
    now: [Script; 2],
    answer: String,
    next: usize,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let redis = PrivateRedis::start().await?;
    let mut bench = Bench {
        connection: redis::Client::open(redis.url())?
            .get_multiplexed_async_connection()
            .await?,
        scripts: Connection::open(&redis.url().into())?,
        before: [
            Script::stored("before_open", "", OPEN_BEFORE),
            Script::stored("before_keep", "", KEEP_BEFORE),
        ],
        now: [
            Script::stored("ledger_open", BOOKS, OPEN),
            Script::stored("ledger_close", &format!("{BOOKS}{SUMS}"), CLOSE),
        ],
        answer: format!("=1500 {{\"content\":\"{}\"}}", "x".repeat(6000)),
        next: 0,
    };
    println!(
        "Redis's time for one paid call, opened and closed, µs: median (least) of {ROUNDS} rounds in turns"
    );
    println!("| calls in a script | before money | with money | with budgets | difference |");
    println!("|---|---|---|---|---|");
    for batch in [1, 4, 16, 64] {
        let mut times: [Vec<f64>; 3] = Default::default();
        for round in 0..=ROUNDS {
            for (kind, times) in times.iter_mut().enumerate() {
                let began = bench.spent().await?;
                for _ in 0..CALLS / batch {
                    match kind {
                        0 => bench.call_before(batch).await?,
                        kind => bench.call_now(batch, kind == 2).await?,
                    }
                }
                // The first round warms up.
                if round > 0 {
                    times.push((bench.spent().await? - began) / CALLS as f64);
                }
            }
        }
        let [before, now, budgets] = times.map(|mut times| {
            times.sort_by(f64::total_cmp);
            (times[times.len() / 2], times[0])
        });
        let show = |(median, least): (f64, f64)| format!("{median:.1} ({least:.1})");
        println!(
            "| {batch} | {} | {} | {} | {} |",
            show(before),
            show(now),
            show(budgets),
            show((now.0 - before.0, now.1 - before.1))
        );
    }
    redis.stop().await;
    Ok(())
}

impl Bench {
    /// Time that Redis has spent on scripts, µs.
    async fn spent(&mut self) -> anyhow::Result<f64> {
        let info: String = redis::cmd("INFO")
            .arg("commandstats")
            .query_async(&mut self.connection)
            .await?;
        // As functions where Redis has them.
        let lines = info
            .lines()
            .filter(|line| line.starts_with("cmdstat_fcall:") || line.starts_with("cmdstat_evalsha:"));
        let usec =
            lines.filter_map(|line| line.split_once("usec=")?.1.split(',').next()?.parse::<f64>().ok());
        Ok(usec.sum())
    }

    fn pages(&mut self, batch: usize) -> Vec<usize> {
        self.next += batch;
        (self.next - batch..self.next).collect()
    }

    async fn finish(&mut self, pages: &[usize]) -> anyhow::Result<()> {
        let keys: Vec<String> = pages.iter().map(|page| format!("ledger:{page}")).collect();
        redis::cmd("UNLINK")
            .arg(keys)
            .query_async(&mut self.connection)
            .await
            .context("UNLINK")
    }

    async fn call_before(&mut self, batch: usize) -> anyhow::Result<()> {
        let pages = self.pages(batch);
        let (mut open, mut keep) = (self.before[0].prepare_invoke(), self.before[1].prepare_invoke());
        open.arg(86_400_000);
        keep.arg(86_400_000);
        for page in &pages {
            open.key(format!("ledger:{page}"))
                .arg(ENTRY)
                .arg(format!("?w:{page}:0"));
            keep.key(format!("ledger:{page}")).arg(ENTRY).arg(&self.answer);
        }
        for script in [open, keep] {
            let _: redis::Value = self.scripts.invoke(&script).await?;
        }
        self.finish(&pages).await
    }

    async fn call_now(&mut self, batch: usize, has_budgets: bool) -> anyhow::Result<()> {
        let pages = self.pages(batch);
        let (mut open, mut close) = (self.now[0].prepare_invoke(), self.now[1].prepare_invoke());
        let days = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or(Duration::ZERO)
            .as_secs()
            / 86_400;
        let begin = |call: &mut ScriptCall<'_>| {
            // The day's name is only compared by its number.
            call.arg("replica-1")
                .arg(15_000)
                .arg("2026-11-30")
                .arg(days)
                .arg(86_400_000);
        };
        begin(&mut open);
        begin(&mut close);
        open.arg("").key("gate:bench:lease_data");
        for _ in 0..3 {
            open.arg(if has_budgets { "1000000000000000" } else { "" });
        }
        close
            .arg(10_000)
            .arg("")
            .arg(pages.first().map_or(0, |page| page + 1));
        for page in &pages {
            let student = student(*page);
            open.key(format!("ledger:{page}"))
                .arg(ENTRY)
                .arg(format!("?w:{page}:0"))
                .arg(page + 1)
                .arg(9_000_000)
                .arg(format!("{} {student}{ROW}", student.len()))
                // No permit is needed.
                .arg("");
            close
                .key(format!("ledger:{page}"))
                .arg(ENTRY)
                .arg(format!("$w:{page}:0"))
                .arg(&self.answer)
                .arg("paid 750000 deck")
                .arg("generate-flashcards");
        }
        for page in &pages {
            close
                .arg(page + 1)
                .arg("paid")
                .arg(750_000)
                .arg(student(*page))
                .arg(ROW);
            for tokens in [812, 0, 1500, 0] {
                close.arg(tokens);
            }
        }
        for script in [open, close] {
            let _: redis::Value = self.scripts.invoke(&script).await?;
        }
        self.finish(&pages).await
    }
}

/// One of 5,000 students.
fn student(page: usize) -> String {
    format!("5f0c2d3a-1111-4222-8333-{:012}", page % 5000)
}
