-- Ends a job well, and forgets the oldest completed jobs beyond the retention, two for each that ends.
-- KEYS 1 inflight of this worker  2 done  3 ended:done  4 data
-- ARGV 1 job id  2 claim token  3 meta prefix  4 history prefix  5 result, JSON {"Ok": result}  6 keep ms  7 keep count
--      8 bytes of payload that are worth keeping once the job is done
-- Returns 1 applied (now or before), 0 lost.
local inflight, done, ended, data = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local id, token, meta_prefix, history_prefix = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local meta = meta_prefix .. id

local held = standing(meta, inflight, id, token)
if held ~= 'held' then return held == 'settled' and 1 or 0 end
local done_is_zset = is_zset(done)
call('ZCARD', ended)
local large = call('HSTRLEN', data, id) > tonumber(ARGV[8])

local now = now_ms()
call('SREM', inflight, id)
add_ended(done, done_is_zset, id, now)
call('ZADD', ended, now, id)
call('HSET', meta, 'status', 'Done', 'claim', '', 'settled', token, 'progress', 100, 'done_at', floor(now / 1000),
  'result', ARGV[5])
if large then call('HDEL', data, id) end
call('DEL', 'ledger:' .. meta)

local old = call('ZRANGEBYSCORE', ended, '-inf', now - tonumber(ARGV[6]), 'LIMIT', 0, 2)
if #old == 0 and call('ZCARD', ended) > tonumber(ARGV[7]) then old = call('ZRANGE', ended, 0, 1) end
for _, gone in ipairs(old) do
  -- Never the job itself: the same call, sent again, has to find it.
  if gone ~= id then
    call('ZREM', ended, gone)
    call(done_is_zset and 'ZREM' or 'SREM', done, gone)
    forget(data, meta_prefix, history_prefix, gone)
  end
end
return 1
