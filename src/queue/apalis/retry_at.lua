-- Puts a job off.
-- KEYS 1 inflight of this worker  2 scheduled  3 fair
-- ARGV 1 job id  2 claim token  3 meta prefix  4 history prefix  5 delay ms  6 does the attempt count 0|1
--      7 reason  8 note for the history, or ''  9 gate that it waits for, or ''
--      10 is such a wait added up 0|1
-- Returns 1 applied (now or before), 0 lost.
local inflight, scheduled = KEYS[1], KEYS[2]
local id, token, meta, history = ARGV[1], ARGV[2], ARGV[3] .. ARGV[1], ARGV[4] .. ARGV[1]
local delay, gate = tonumber(ARGV[5]), ARGV[9]

local held = standing(meta, inflight, id, token)
if held ~= 'held' then return held == 'settled' and 1 or 0 end
call('ZCARD', scheduled)
call('LLEN', history)

local now, m = now_ms(), call('HMGET', meta, 'attempts', 'waited')
call('SREM', inflight, id)
call('ZADD', scheduled, string.format('%.3f', (now + delay) / 1000), id)
call('HSET', meta, 'status', 'Pending', 'claim', '', 'settled', token, 'error', ARGV[7], 'gate', gate)
if ARGV[6] == '0' then call('HSET', meta, 'attempts', max(0, count(m[1], 1) - 1)) end
if gate ~= '' and ARGV[10] == '1' then call('HSET', meta, 'waited', string.format('%.0f', count(m[2], 0) + delay)) end
remember(history, now, ARGV[8], ARGV[6] == '0')
call('DEL', KEYS[3] .. ':full') -- Its owner may start another job (../owner_in_flight.lua).
return 1
