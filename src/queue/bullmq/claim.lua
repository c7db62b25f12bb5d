-- Claims jobs into free slots.
-- KEYS 1 prefix
-- ARGV as in claiming.lua
-- Returns what `claim` returns.
expect_active()
return claim(tonumber(ARGV[3]), now_ms())
