//! Turns reads of a job and events of its queue into events for a client, and reports each step once.

use serde_json::{Value, json};

use crate::{
    queue::{
        HistoryLine, JobSnapshot, JobState, WaitingFor,
        watch::{JobUpdate, UnkeptOutcome},
    },
    time_format::{iso, timestamp},
};

/// The name of an event, and its body.
pub(super) type TimelineEvent = (&'static str, Value);

/// The steps of a job that the client has received so far.
#[derive(Debug)]
pub(super) struct JobTimeline {
    id: String,
    state: JobState,
    progress: u8,
    /// The last line of its history.
    told: Option<HistoryPosition>,
    /// The parts of the result that were told.
    parts: Vec<Value>,
    /// True if the job had not completed when the client began to follow it.
    follows: bool,
    ended: bool,
}

/// Most parts of a result that are told.
const MOST_PARTS: usize = 100;

/// Position of a line in a history, which drops its oldest lines.
type HistoryPosition = (u64, u32, u32);

fn place(line: &HistoryLine) -> HistoryPosition {
    (line.at, line.note.attempt, line.note.r#try)
}

impl JobTimeline {
    /// Begins with the current state of the job.
    pub(super) fn begin(queue: &str, view: &JobSnapshot) -> (Self, Vec<TimelineEvent>) {
        let mut story = Self {
            id: view.id.clone(),
            state: JobState::Waiting,
            progress: 0,
            told: view.history.last().map(place),
            parts: Vec::new(),
            follows: view.state != JobState::Completed,
            ended: false,
        };
        let mut connected = json!({
            "queue": queue, "status": view.state, "progress": view.progress, "attemptsMade": view.attempts_made,
        });
        add_waiting(&mut connected, view.waiting_for.as_ref());
        let mut told = vec![story.event("connected", connected)];
        told.extend(story.see(view));
        (story, told)
    }

    /// Returns true if the client has received the end of the job.
    pub(super) const fn ended(&self) -> bool {
        self.ended
    }

    /// Returns true if the job runs.
    pub(super) fn is_active(&self) -> bool {
        !self.ended && self.state == JobState::Active
    }

    /// Returns the events of the parts that the client has not received, or received otherwise.
    pub(super) fn parts(&mut self, parts: &[Value]) -> Vec<TimelineEvent> {
        let mut told = Vec::new();
        for (index, part) in parts.iter().take(MOST_PARTS).enumerate() {
            if self.parts.get(index) == Some(part) {
                continue;
            }
            match self.parts.get_mut(index) {
                Some(known) => *known = part.clone(),
                None => self.parts.push(part.clone()),
            }
            told.push(self.event("card", json!({ "index": index, "card": part })));
        }
        told
    }

    /// The events of the parts of a whole result.
    fn parts_of(&mut self, result: &Value) -> Vec<TimelineEvent> {
        match result["flashcards"].as_array() {
            Some(parts) if self.follows => self.parts(parts),
            _ => Vec::new(),
        }
    }

    /// Returns the events that an update adds.
    pub(super) fn hear(&mut self, update: &JobUpdate) -> Vec<TimelineEvent> {
        if self.ended {
            return Vec::new();
        }
        match update {
            JobUpdate::Active => self.activate().into_iter().collect(),
            JobUpdate::Progress(percent) => self.advance(*percent).into_iter().collect(),
            JobUpdate::Stands(view) => self.see(view),
            JobUpdate::Gone(ending) => {
                self.ended = true;
                let mut told = match ending {
                    Some(UnkeptOutcome::Completed(result)) => self.parts_of(result),
                    Some(UnkeptOutcome::Failed(_)) | None => Vec::new(),
                };
                told.push(match ending {
                    Some(UnkeptOutcome::Completed(result)) => {
                        self.event("completed", json!({ "result": result }))
                    }
                    Some(UnkeptOutcome::Failed(reason)) => self.event("failed", json!({ "error": reason })),
                    None => self.event("failed", json!({ "error": "the job was removed" })),
                });
                told
            }
        }
    }

    fn see(&mut self, view: &JobSnapshot) -> Vec<TimelineEvent> {
        let mut told = Vec::new();
        let lines = view.history.iter().rev();
        let fresh = lines.take_while(|line| self.told.is_none_or(|last| place(line) > last));
        // The last line of a failed job is the failure itself.
        let failure = usize::from(view.state == JobState::Failed);
        let mut retries: Vec<Value> = fresh.skip(failure).map(retry).collect();
        retries.reverse();
        if retries.is_empty()
            && self.state == JobState::Active
            && matches!(view.state, JobState::Waiting | JobState::Delayed)
        {
            retries.push(json!({ "error": view.error }));
        }
        if let Some(last) = retries.last_mut() {
            add_waiting(last, view.waiting_for.as_ref());
        }
        told.extend(retries.into_iter().map(|body| self.event("retrying", body)));
        self.told = view.history.last().map(place).max(self.told);

        if view.state == JobState::Active {
            told.extend(self.activate());
        }
        if matches!(view.state, JobState::Active | JobState::Completed) {
            told.extend(self.advance(view.progress));
        }
        self.state = view.state;
        let attempts = view.attempts_made;
        match view.state {
            JobState::Completed => {
                if let Some(result) = &view.result {
                    told.extend(self.parts_of(result));
                }
                told.push(self.event(
                    "completed",
                    json!({ "result": view.result, "attemptsMade": attempts }),
                ));
                self.ended = true;
            }
            JobState::Failed => {
                told.push(self.event("failed", json!({ "error": view.error, "attemptsMade": attempts })));
                self.ended = true;
            }
            JobState::Waiting | JobState::Delayed | JobState::Active => {}
        }
        told
    }

    fn activate(&mut self) -> Option<TimelineEvent> {
        if self.state == JobState::Active {
            return None;
        }
        self.state = JobState::Active;
        self.progress = 0;
        Some(self.event("active", json!({})))
    }

    /// Reports progress only when it rises, because reads and queue events can overtake each other.
    fn advance(&mut self, percent: u8) -> Option<TimelineEvent> {
        if percent <= self.progress {
            return None;
        }
        self.progress = percent;
        Some(self.event("progress", json!({ "progress": percent })))
    }

    fn event(&self, name: &'static str, body: Value) -> TimelineEvent {
        let mut event = json!({ "jobId": self.id });
        if let (Some(event), Value::Object(body)) = (event.as_object_mut(), body) {
            event.extend(body);
            event.insert("timestamp".to_owned(), timestamp().into());
        }
        (name, event)
    }
}

fn retry(HistoryLine { at, note, .. }: &HistoryLine) -> Value {
    json!({
        "error": note.cause,
        "class": note.class,
        "attempt": note.attempt,
        "try": note.r#try,
        "delayMs": note.delay_ms,
        "at": iso(*at),
    })
}

fn add_waiting(body: &mut Value, waiting: Option<&WaitingFor>) {
    if let Some(waiting) = waiting {
        body["waitingFor"] =
            json!({ "gate": waiting.gate, "reason": waiting.reason, "until": iso(waiting.until) });
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::queue::HistoryNote;

    fn view(state: JobState, progress: u8, lines: &[(u32, u32)]) -> JobSnapshot {
        let line = |(nth, &(attempt, r#try)): (usize, &(u32, u32))| HistoryLine {
            at: 1_000 + nth as u64,
            times: None,
            since: None,
            note: HistoryNote {
                attempt,
                r#try,
                class: "transient".to_owned(),
                cause: format!("try {attempt}.{try}"),
                delay_ms: Some(20),
                replica: "r".to_owned(),
            },
        };
        JobSnapshot {
            id: "1".to_owned(),
            kind: None,
            state,
            added_at: None,
            ended_at: None,
            progress,
            attempts_made: 1,
            result: (state == JobState::Completed).then(|| json!({"ok": true})),
            error: (state == JobState::Failed).then(|| "it failed".to_owned()),
            waiting_for: None,
            line: None,
            history: lines.iter().enumerate().map(line).collect(),
        }
    }

    fn begin(view: &JobSnapshot) -> (JobTimeline, Vec<String>) {
        let (story, told) = JobTimeline::begin("q", view);
        (story, names(&told))
    }

    /// The events' names, with what tells them apart.
    fn names(told: &[TimelineEvent]) -> Vec<String> {
        let name = |(name, body): &TimelineEvent| match *name {
            "progress" => format!("progress {}", body["progress"]),
            "retrying" => format!("retrying {}", body["error"]),
            name => name.to_owned(),
        };
        told.iter().map(name).collect()
    }

    fn hear(story: &mut JobTimeline, update: JobUpdate) -> Vec<String> {
        names(&story.hear(&update))
    }

    fn stands(state: JobState, progress: u8, lines: &[(u32, u32)]) -> JobUpdate {
        JobUpdate::Stands(Arc::new(view(state, progress, lines)))
    }

    #[test]
    fn looks_alone_tell_the_whole_story() {
        let (mut story, told) = begin(&view(JobState::Waiting, 0, &[]));
        assert_eq!(told, ["connected"]);
        assert_eq!(
            hear(&mut story, stands(JobState::Active, 10, &[])),
            ["active", "progress 10"]
        );
        assert!(
            hear(&mut story, stands(JobState::Active, 10, &[])).is_empty(),
            "nothing is told twice"
        );
        assert_eq!(
            hear(&mut story, stands(JobState::Active, 15, &[(1, 1)])),
            [r#"retrying "try 1.1""#, "progress 15"]
        );
        assert_eq!(
            hear(&mut story, stands(JobState::Delayed, 15, &[(1, 1), (1, 2)])),
            [r#"retrying "try 1.2""#]
        );
        assert_eq!(
            hear(&mut story, stands(JobState::Active, 10, &[(1, 1), (1, 2)])),
            ["active", "progress 10"],
            "another delivery begins again"
        );
        assert_eq!(
            hear(&mut story, stands(JobState::Completed, 100, &[(1, 1), (1, 2)])),
            ["progress 100", "completed"]
        );
        assert!(story.ended());
        assert!(hear(&mut story, JobUpdate::Active).is_empty());
    }

    #[test]
    fn announcements_and_looks_do_not_repeat_each_other() {
        let (mut story, _) = begin(&view(JobState::Waiting, 0, &[]));
        assert_eq!(hear(&mut story, JobUpdate::Active), ["active"]);
        assert_eq!(hear(&mut story, JobUpdate::Progress(15)), ["progress 15"]);
        assert_eq!(
            hear(&mut story, stands(JobState::Active, 20, &[(1, 1), (1, 2)])),
            [r#"retrying "try 1.1""#, r#"retrying "try 1.2""#, "progress 20"]
        );
        assert!(hear(&mut story, JobUpdate::Progress(20)).is_empty());
        assert_eq!(
            hear(&mut story, stands(JobState::Waiting, 0, &[(1, 1), (1, 2)])),
            ["retrying null"]
        );
        assert_eq!(hear(&mut story, JobUpdate::Active), ["active"]);
        assert_eq!(
            hear(
                &mut story,
                stands(JobState::Failed, 10, &[(1, 1), (1, 2), (2, 1)])
            ),
            ["failed"],
            "the last line is the failure itself"
        );
    }

    #[test]
    fn who_comes_late_is_told_how_the_job_stands() {
        assert_eq!(
            begin(&view(JobState::Active, 20, &[(1, 1)])).1,
            ["connected", "active", "progress 20"]
        );
        assert_eq!(begin(&view(JobState::Delayed, 20, &[(1, 1)])).1, ["connected"]);
        assert_eq!(
            begin(&view(JobState::Failed, 20, &[(1, 1)])).1,
            ["connected", "failed"]
        );
        let (story, told) = begin(&view(JobState::Completed, 100, &[]));
        assert_eq!(
            (told.last().map(String::as_str), story.ended()),
            (Some("completed"), true)
        );
    }

    #[test]
    fn a_job_of_which_nothing_is_kept_ends_all_the_same() {
        let gone = |ending| {
            let (mut story, _) = begin(&view(JobState::Active, 10, &[]));
            let told = story.hear(&JobUpdate::Gone(ending));
            assert!(story.ended());
            told.into_iter().next().unwrap()
        };
        let (name, body) = gone(Some(UnkeptOutcome::Completed(Arc::new(json!([1])))));
        assert_eq!((name, &body["result"]), ("completed", &json!([1])));
        let (name, body) = gone(Some(UnkeptOutcome::Failed("why".into())));
        assert_eq!((name, &body["error"]), ("failed", &json!("why")));
        assert_eq!(gone(None).0, "failed");
    }
}
