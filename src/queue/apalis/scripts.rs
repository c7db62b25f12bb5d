//! The scripts of the apalis layout: `common.lua` in front of each operation's file.

use crate::queue::scripts::scripts;

scripts! {
    CLAIM = "row.lua", "claim.lua";
    CLAIMED = "row.lua", "claimed.lua";
    RENEW = "../witness.lua", "renew.lua";
    RECOVER = "../witness.lua", "../poison.lua", "orphan.lua", "recover.lua";
    MINE = "mine.lua";
    STRAYS = "../poison.lua", "orphan.lua", "strays.lua";
    COMPLETE = "complete.lua";
    RETRY_AT = "retry_at.lua";
    FAIL = "fail.lua";
    RELEASE = "release.lua";
    BEGIN = "begin.lua";
    PROGRESS = "progress.lua";
    LEAVE = "leave.lua";
    ENQUEUE = "enqueue.lua";
    COUNTS = "counts.lua";
    LIST = "../pages.lua", "list.lua";
    RETRY = "retry.lua";
    REMOVE = "../lines.lua", "remove.lua";
}
