//! The scripts of the BullMQ layout: `common.lua` in front of each operation's file, and `ending.lua` too where a job
//! can end, `../fair.lua` and `line.lua` where one is taken from the line or put back, `claiming.lua` where jobs are
//! claimed, `orphan.lua` where one is put back because no replica runs it, and `equal.lua` where jobs wait for the
//! result of an equal one.

use crate::queue::scripts::scripts;

scripts! {
    "bullmq";
    CLAIM as function = "../owner.lua", "../fair.lua", "../busy.lua", "../taking.lua", "line.lua", "levels.lua", "ending.lua", "claiming.lua", "claim.lua";
    LOOK = "look.lua";
    RENEW = "../witness.lua", "renew.lua";
    RECOVER = "../witness.lua", "ending.lua", "../poison.lua", "orphan.lua", "recover.lua";
    MINE = "mine.lua";
    STRAYS = "ending.lua", "../poison.lua", "orphan.lua", "strays.lua";
    PLACES as function = "../owner.lua", "../fair.lua", "../taking.lua", "line.lua", "levels.lua", "places.lua";
    COMPLETE as function = "../owner.lua", "../fair.lua", "../busy.lua", "../taking.lua", "line.lua", "levels.lua", "ending.lua", "claiming.lua", "../equal.lua", "equal.lua", "complete.lua";
    RETRY_AT as function = "retry_at.lua";
    AWAIT = "../owner.lua", "../fair.lua", "line.lua", "../equal.lua", "await.lua";
    WAKE = "../owner.lua", "../fair.lua", "line.lua", "../equal.lua", "equal.lua", "wake.lua";
    FAIL as function = "ending.lua", "fail.lua";
    RELEASE as function = "../owner.lua", "../fair.lua", "line.lua", "release.lua";
    BEGIN = "begin.lua";
    PROGRESS as function = "progress.lua";
    LEAVE = "../owner.lua", "../fair.lua", "line.lua", "leave.lua";
    ENQUEUE = "enqueue.lua";
    PAUSE = "pause.lua";
    FIND = "find.lua";
    LIST = "../pages.lua", "list.lua";
    RETRY = "ending.lua", "retry.lua";
    REMOVE = "ending.lua", "../lines.lua", "remove.lua";
    OLDEST = "oldest.lua";
    STANDING = "../owner.lua", "../fair.lua", "line.lua", "../standing.lua", "standing.lua";
}
