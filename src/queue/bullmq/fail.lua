-- Makes a job a dead letter. Dead letters are kept unless the producer says otherwise.
-- KEYS 1 prefix
-- ARGV 1 job id  2 claim token  3 reason  4 note for the history, or ''
-- Returns 1 applied (now or before), 0 lost.
local id, token, reason = ARGV[1], ARGV[2], ARGV[3]
local m = call('HMGET', P .. id, unpack(ENDING))
local held = standing(id, token, m)
if held ~= 'held' then return refusal(held) end
expect_ends('failed')
expect_log(id)
local now = now_ms()
remember(id, now, ARGV[4])
blame(id, reason)
finish(id, m, token, 'failed', reason, now)
tidy(now)
return 1
