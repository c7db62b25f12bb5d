//! The scripts of the BullMQ layout. `common.lua` comes first in each of them, the operation last.
//!
//! - `end_job.lua`: for scripts that can end a job.
//! - `../fair_line.lua` and `waiting_line.lua`: for those that take a job from the line, or put one back.
//! - `claim_jobs.lua`: for those that claim.
//! - `lost_job.lua`: for those that put back a job that no replica runs.
//! - `equal_wake.lua`: for those that wake equal jobs.

use crate::queue::scripts::scripts;

scripts! {
    "bullmq";
    CLAIM as function = "../payload_owner.lua", "../fair_line.lua", "../owner_in_flight.lua", "../fair_line_places.lua", "../fair_line_turns.lua", "../fair_line_taking.lua", "waiting_line.lua", "priority_levels.lua", "end_job.lua", "claim_jobs.lua", "claim.lua";
    LOOK_FOR_WORK = "look_for_work.lua";
    RENEW = "../lease_continuity.lua", "renew.lua";
    RECOVER = "../lease_continuity.lua", "end_job.lua", "../poison_count.lua", "lost_job.lua", "recover.lua";
    OWN_CLAIMS = "own_claims.lua";
    REQUEUE_LOST_CLAIMS = "end_job.lua", "../poison_count.lua", "lost_job.lua", "requeue_lost_claims.lua";
    ASSIGN_PLACES as function = "../payload_owner.lua", "../fair_line.lua", "../fair_line_places.lua", "../fair_line_turns.lua", "../fair_line_taking.lua", "waiting_line.lua", "priority_levels.lua", "assign_places.lua";
    COMPLETE as function = "../payload_owner.lua", "../fair_line.lua", "../owner_in_flight.lua", "../fair_line_places.lua", "../fair_line_turns.lua", "../fair_line_taking.lua", "waiting_line.lua", "priority_levels.lua", "end_job.lua", "claim_jobs.lua", "../equal_jobs.lua", "equal_wake.lua", "complete.lua";
    LARGE_RESULT = "end_job.lua", "large_result.lua";
    RETRY_AT as function = "retry_at.lua";
    AWAIT_EQUAL = "../payload_owner.lua", "../fair_line.lua", "waiting_line.lua", "../equal_jobs.lua", "await_equal.lua";
    WAKE_EQUAL = "../payload_owner.lua", "../fair_line.lua", "waiting_line.lua", "../equal_jobs.lua", "equal_wake.lua", "wake_equal.lua";
    FAIL as function = "end_job.lua", "fail.lua";
    RELEASE as function = "../payload_owner.lua", "../fair_line.lua", "waiting_line.lua", "release.lua";
    MARK_STARTED = "mark_started.lua";
    PROGRESS as function = "progress.lua";
    REMOVE_REPLICA = "../payload_owner.lua", "../fair_line.lua", "waiting_line.lua", "remove_replica.lua";
    ENQUEUE = "enqueue.lua";
    PAUSE = "pause.lua";
    FIND = "find.lua";
    LIST = "../job_pages.lua", "list.lua";
    RETRY = "end_job.lua", "retry.lua";
    REMOVE = "end_job.lua", "../list_removal.lua", "remove.lua";
    OLDEST_WAITING = "oldest_waiting.lua";
    LINE_POSITION = "../payload_owner.lua", "../fair_line.lua", "waiting_line.lua", "../line_position.lua", "line_position.lua";
}
