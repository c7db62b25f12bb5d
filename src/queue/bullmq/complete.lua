-- Ends a job well.
-- KEYS 1 prefix
-- ARGV 1 job id  2 claim token  3 result, JSON  4 keep ms  5 keep count
-- Returns 1 applied (now or before), 0 lost.
local id, token = ARGV[1], ARGV[2]
local held = standing(id, token)
if held ~= 'held' then return refusal(held) end
-- Where jobs wait is read when something is put there; a parent's keys by whoever tells it.
expect(P, 'meta', 'events', 'active', 'stalled', 'completed')
if orders(P)[2] then expect_lines(P) end
report(id, 100)
finish(id, token, 'completed', ARGV[3], now_ms(), tonumber(ARGV[5]), tonumber(ARGV[4]))
return 1
