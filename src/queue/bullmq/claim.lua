-- Claims jobs into free slots.
-- KEYS 1 prefix
-- ARGV as in claim_jobs.lua
-- Returns what `claim` returns.
expect_active()
return claim(tonumber(ARGV[3]), now_ms())
