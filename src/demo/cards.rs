//! Shows the cards of one deck while the model writes them, as clients of `GET /api/job-events` receive them.

use std::convert::Infallible;

use serde_json::Value;

use super::show::ProgressDisplay;

/// Most characters of a card that are shown.
const LONGEST: usize = 60;

/// Shows the cards of this job as they come. Never ends by itself: without an answer there is nothing to show.
pub(super) async fn show(port: u16, job: &str, stage: &ProgressDisplay) -> Infallible {
    let url = format!("http://127.0.0.1:{port}/api/job-events?jobId={job}");
    if let Ok(answer) = reqwest::Client::new().get(url).send().await {
        follow(answer, job, stage).await;
    }
    std::future::pending().await
}

async fn follow(mut answer: reqwest::Response, job: &str, stage: &ProgressDisplay) {
    let (mut unread, mut event, mut shown) = (Vec::new(), String::new(), 0);
    while let Ok(Some(chunk)) = answer.chunk().await {
        unread.extend_from_slice(&chunk);
        while let Some(end) = unread.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = unread.drain(..=end).collect();
            let line = String::from_utf8_lossy(&line);
            match line.trim_end().split_once(':') {
                Some(("event", name)) => name.trim().clone_into(&mut event),
                Some(("data", data)) if event == "card" => {
                    let card: Value = serde_json::from_str(data.trim()).unwrap_or_default();
                    // A card that was shown is sent again while its end is still written.
                    if card["index"].as_u64().is_some_and(|index| index >= shown) {
                        shown += 1;
                        stage.say(&format!("{job}, card {shown}: {}", text(&card["card"])));
                    }
                }
                Some(("data", _)) if event == "completed" || event == "failed" => return,
                _ => {}
            }
        }
    }
}

fn text(card: &Value) -> String {
    let side = |name: &str| card[name].as_str().unwrap_or_default();
    let text = format!("{} = {}", side("front"), side("back"));
    text.chars().take(LONGEST).collect()
}
