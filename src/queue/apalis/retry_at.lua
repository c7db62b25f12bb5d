-- Puts a job off.
-- KEYS 1 inflight of this worker  2 scheduled
-- ARGV 1 job id  2 claim token  3 meta prefix  4 history prefix  5 delay ms  6 does the attempt count 0|1
--      7 reason  8 note for the history, or ''
-- Returns 1 applied (now or before), 0 lost.
local inflight, scheduled = KEYS[1], KEYS[2]
local id, token, meta, delay = ARGV[1], ARGV[2], ARGV[3] .. ARGV[1], tonumber(ARGV[5])

local held = standing(meta, inflight, id, token)
if held ~= 'held' then return held == 'settled' and 1 or 0 end

local now = now_ms()
call('SREM', inflight, id)
call('ZADD', scheduled, string.format('%.3f', (now + delay) / 1000), id)
call('HSET', meta, 'status', 'Pending', 'claim', '', 'settled', token, 'error', ARGV[7])
if ARGV[6] == '0' then
  local m = call('HMGET', meta, 'attempts', 'waited')
  call('HSET', meta, 'attempts', math.max(0, count(m[1], 1) - 1),
    'waited', string.format('%.0f', count(m[2], 0) + delay))
end
remember(ARGV[4] .. id, now, ARGV[8])
return 1
