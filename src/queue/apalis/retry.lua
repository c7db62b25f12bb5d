-- Puts dead letters back into the queue, behind all others. History and attempts stay; the counts of lost deliveries
-- and of time spent at gates restart at zero.
-- KEYS 1 active  2 dead  3 ended:dead  4 data
-- ARGV 1 order, unique  2 operator  3 reset attempts to zero 0|1  4 meta prefix  5 history prefix
--      6 inflight prefix  7… job ids, the newest first
-- Returns for each id: 'retried' by this order, now or before; 'again': it has failed again since; 'other': it is no dead
-- letter; 'broken': there is no job behind the id, or its keys are not what they should be.
local active, dead, ended, data = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local order, who, resets_attempts = ARGV[1], ARGV[2], ARGV[3] == '1'
local dead_is_zset, now, fates = is_zset(dead), now_ms(), {}
call('LLEN', active)
call('ZCARD', ended)

local function is_dead(id)
  local listed = dead_is_zset and call('ZSCORE', dead, id) or not dead_is_zset and call('SISMEMBER', dead, id) == 1
  return listed or call('ZSCORE', ended, id)
end

local function retry(id)
  local meta, history = ARGV[4] .. id, ARGV[5] .. id
  local m = protected('HMGET', meta, 'attempts', 'status', 'locked_by', 'retried')
  local lines = protected('LLEN', history)
  if m.err or type(lines) ~= 'number' or call('HEXISTS', data, id) == 0 then return 'broken' end
  local failed = is_dead(id)
  if m[4] == order then return failed and 'again' or 'retried' end
  local held = m[3] and protected('SISMEMBER', ARGV[6] .. m[3], id) == 1
  if not failed or held or m[2] == 'Done' then return 'other' end

  local attempts = count(m[1], 0)
  remember(history, now, note_of(attempts, 'retried', 'retried by hand', who))
  call(
    'HSET',
    meta,
    'status',
    'Pending',
    'claim',
    '',
    'progress',
    0,
    'retried',
    order,
    'attempts',
    resets_attempts and 0 or attempts
  )
  call('HDEL', meta, 'lost', 'cut', 'waited', 'error', 'result', 'gate', 'done_at')
  call(dead_is_zset and 'ZREM' or 'SREM', dead, id)
  call('ZREM', ended, id)
  call('RPUSH', active, id)
  return 'retried'
end

for i = #ARGV, 7, -1 do
  fates[i - 6] = retry(ARGV[i])
end
return fates
