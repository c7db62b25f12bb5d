-- Makes a job a dead letter.
-- KEYS 1 inflight of this worker  2 dead  3 ended:dead  4 fair
-- ARGV 1 job id  2 claim token  3 meta prefix  4 history prefix  5 result, JSON {"Err": reason}  6 reason
--      7 note for the history, or ''
-- Returns 1 applied (now or before), 0 lost.
local inflight, dead, ended = KEYS[1], KEYS[2], KEYS[3]
local id, token, meta, history = ARGV[1], ARGV[2], ARGV[3] .. ARGV[1], ARGV[4] .. ARGV[1]

local held = standing(meta, inflight, id, token)
if held ~= 'held' then return held == 'settled' and 1 or 0 end
local dead_is_zset = is_zset(dead)
call('ZCARD', ended)
call('LLEN', history)

local now = now_ms()
call('SREM', inflight, id)
add_ended(dead, dead_is_zset, id, now)
call('ZADD', ended, now, id)
call(
  'HSET',
  meta,
  'status',
  'Failed',
  'claim',
  '',
  'settled',
  token,
  'done_at',
  floor(now / 1000),
  'result',
  ARGV[5],
  'error',
  ARGV[6]
)
remember(history, now, ARGV[7])
call('DEL', KEYS[4] .. ':full') -- Its owner may start another job (../owner_in_flight.lua).
return 1
