//! The cost of depth: `cargo bench --bench depth`. A million queued jobs, a hundred thousand due at once, ten thousand
//! in flight, megabytes of payloads, over a private redis-server on the same machine, in both layouts.
//!
//! Redis tells the time of each script by its SLOWLOG, and has a core of its own where there are two.
//! `DEPTH_JOBS=10000` makes it a small run, `DEPTH_REPORT=on` writes the tables into `docs/benchmarks.md`.

mod cases;
mod cores;
mod flight;
mod report;
mod stage;

use backend_worker::queue::Layout;

use crate::{cases::Queue, report::Report, stage::Stage};

const COMMAND: &str = "cargo bench --locked --bench depth";

type Error = Box<dyn std::error::Error + Send + Sync>;
type Result<T = ()> = std::result::Result<T, Error>;

async fn layout(layout: Layout, core: Option<usize>, most: usize, report: &mut Report) -> Result {
    let mut stage = Stage::set(core).await?;
    let mut queue = Queue::new(&stage, layout).await?;
    cases::megabytes(&mut stage, &mut queue, report).await?;
    stage.ask::<()>(&["FLUSHALL"]).await?;
    queue = Queue::new(&stage, layout).await?;
    let mut depth = 0;
    for next in [0, most / 100, most / 10, most] {
        if next > depth {
            cases::filled(&mut stage, &queue, report, next - depth).await?;
            depth = next;
        }
        cases::course(&mut stage, &mut queue, report).await?;
        cases::reads(&mut stage, &queue, report).await?;
    }
    cases::operator(&mut stage, &mut queue, report).await?;
    cases::batches(&mut stage, &mut queue, report).await?;
    cases::due_at_once(&mut stage, &mut queue, report, most / 10).await?;
    cases::in_flight(&mut stage, &queue, report).await?;
    cases::letters(&mut stage, &mut queue, report, (most / 10).min(10_000)).await?;
    cases::retention(&mut stage, &mut queue, report).await?;
    stage.ask::<()>(&["FLUSHALL"]).await?;
    flight::run(&mut stage, layout, report).await?;
    report.longest(&stage);
    Ok(())
}

fn main() -> Result {
    // Before there are other threads: they and all processes of the bench take after this one.
    let core = cores::leave_one()?;
    run(core)
}

#[tokio::main(worker_threads = 1)]
async fn run(core: Option<usize>) -> Result {
    let most = std::env::var("DEPTH_JOBS").map_or(Ok(1_000_000), |jobs| jobs.parse())?;
    // A task of its own: what blocks on a runtime is not on its threads, and pays for each wake-up.
    tokio::spawn(async move {
        let mut report = Report::default();
        for which in Layout::ALL {
            let done = layout(which, core, most, &mut report).await;
            if done.is_err() {
                println!("{}", report.text(COMMAND));
            }
            done?;
        }
        println!("\n{}", report.text(COMMAND));
        if std::env::var("DEPTH_REPORT").is_ok_and(|on| on == "on") {
            report.write(COMMAND)?;
        }
        Ok(())
    })
    .await?
}
