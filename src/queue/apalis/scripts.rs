//! The scripts of the apalis layout: `common.lua` in front of each operation's file, `../fair.lua` and `line.lua`
//! where a job is taken from the line or put back, `../equal.lua` where jobs wait for the result of an equal one.

use crate::queue::scripts::scripts;

scripts! {
    "apalis";
    CLAIM as function = "../owner.lua", "../fair.lua", "../busy.lua", "../taking.lua", "line.lua", "row.lua", "claim.lua";
    PLACES as function = "../owner.lua", "../fair.lua", "../taking.lua", "line.lua", "places.lua";
    CLAIMED = "row.lua", "claimed.lua";
    RENEW = "../witness.lua", "renew.lua";
    RECOVER = "../witness.lua", "../poison.lua", "orphan.lua", "recover.lua";
    MINE = "mine.lua";
    STRAYS = "../poison.lua", "orphan.lua", "strays.lua";
    COMPLETE as function = "../equal.lua", "equal.lua", "complete.lua";
    RETRY_AT as function = "retry_at.lua";
    AWAIT = "../owner.lua", "../fair.lua", "line.lua", "../equal.lua", "await.lua";
    WAKE = "../equal.lua", "equal.lua", "wake.lua";
    FAIL as function = "fail.lua";
    RELEASE as function = "../owner.lua", "../fair.lua", "line.lua", "release.lua";
    BEGIN = "begin.lua";
    PROGRESS as function = "progress.lua";
    LEAVE = "../owner.lua", "../fair.lua", "line.lua", "leave.lua";
    ENQUEUE = "enqueue.lua";
    COUNTS = "counts.lua";
    LIST = "../pages.lua", "list.lua";
    RETRY = "retry.lua";
    STANDING = "../owner.lua", "../fair.lua", "line.lua", "../standing.lua", "standing.lua";
    REMOVE = "../lines.lua", "remove.lua";
}
