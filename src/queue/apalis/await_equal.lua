-- Makes a job wait for the result of an equal one. It costs no attempt.
-- KEYS 1 inflight of this worker  2 active  3 scheduled  4 data  5 fair
-- ARGV 1 job id  2 claim token  3 meta prefix  4 delay ms after which it comes by itself  5 reason
--      6 prefix of the equal jobs' keys
-- Where no claim leads any more, the job goes back to the front of the line: the leader has ended since.
-- Returns 1 applied (now or before), 0 lost.
local inflight, active, scheduled = KEYS[1], KEYS[2], KEYS[3]
local id, token, meta, delay, reason, equal = ARGV[1], ARGV[2], ARGV[3] .. ARGV[1], tonumber(ARGV[4]), ARGV[5], ARGV[6]

local held = standing(meta, inflight, id, token)
if held ~= 'held' then return held == 'settled' and 1 or 0 end
call('LLEN', active)
call('ZCARD', scheduled)
call('HLEN', KEYS[4])

local now = now_ms()
local is_led = leader_left(equal, now)
call('SREM', inflight, id)
call(
  'HSET',
  meta,
  'status',
  'Pending',
  'claim',
  '',
  'settled',
  token,
  'progress',
  0,
  'gate',
  '',
  'awaited',
  1,
  'attempts',
  max(0, count(call('HGET', meta, 'attempts'), 1) - 1)
)
if is_led then
  note_waiting(equal, active, id, now)
  call('ZADD', scheduled, string.format('%.3f', (now + delay) / 1000), id)
  call('HSET', meta, 'error', reason)
else
  call('LPUSH', active, id)
  returned(KEYS[4], KEYS[5], id)
end
call('DEL', KEYS[5] .. ':full') -- Its owner may start another job (../owner_in_flight.lua).
return 1
