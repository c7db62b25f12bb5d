//! The scripts of the apalis layout. `common.lua` comes first in each of them, the operation last.
//!
//! Scripts that take a job from the line, or put one back, need `../fair_line.lua` and `waiting_line.lua`. Scripts that deal
//! with equal jobs need `../equal_jobs.lua`.

use crate::queue::scripts::scripts;

scripts! {
    "apalis";
    CLAIM as function = "../payload_owner.lua", "../fair_line.lua", "../owner_in_flight.lua", "../fair_line_places.lua", "../fair_line_turns.lua", "../fair_line_taking.lua", "waiting_line.lua", "claimed_row.lua", "claim.lua";
    ASSIGN_PLACES as function = "../payload_owner.lua", "../fair_line.lua", "../fair_line_places.lua", "../fair_line_turns.lua", "../fair_line_taking.lua", "waiting_line.lua", "assign_places.lua";
    CLAIM_RESEND = "claimed_row.lua", "claim_resend.lua";
    RENEW = "../lease_continuity.lua", "renew.lua";
    RECOVER = "../lease_continuity.lua", "../poison_count.lua", "lost_job.lua", "recover.lua";
    OWN_CLAIMS = "own_claims.lua";
    REQUEUE_LOST_CLAIMS = "../poison_count.lua", "lost_job.lua", "requeue_lost_claims.lua";
    COMPLETE as function = "../equal_jobs.lua", "equal_wake.lua", "complete.lua";
    LARGE_RESULT = "large_result.lua";
    RETRY_AT as function = "retry_at.lua";
    AWAIT_EQUAL = "../payload_owner.lua", "../fair_line.lua", "waiting_line.lua", "../equal_jobs.lua", "await_equal.lua";
    WAKE_EQUAL = "../equal_jobs.lua", "equal_wake.lua", "wake_equal.lua";
    FAIL as function = "fail.lua";
    RELEASE as function = "../payload_owner.lua", "../fair_line.lua", "waiting_line.lua", "release.lua";
    MARK_STARTED = "mark_started.lua";
    PROGRESS as function = "progress.lua";
    REMOVE_REPLICA = "../payload_owner.lua", "../fair_line.lua", "waiting_line.lua", "remove_replica.lua";
    ENQUEUE = "enqueue.lua";
    COUNTS = "counts.lua";
    LIST = "../job_pages.lua", "list.lua";
    RETRY = "retry.lua";
    LINE_POSITION = "../payload_owner.lua", "../fair_line.lua", "waiting_line.lua", "../line_position.lua", "line_position.lua";
    REMOVE = "../list_removal.lua", "remove.lua";
}
