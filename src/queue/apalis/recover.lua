-- Puts back a chunk of the jobs of one dead replica: one whose lease has run out, or a stock apalis worker that was
-- not seen for five minutes. The attempt is given back, the lost delivery is counted; too many make the job poison.
-- KEYS 1 leases  2 workers  3 active  4 dead  5 ended:dead
-- ARGV 1 worker that asks  2 inflight prefix  3 meta prefix  4 chunk  5 lost deliveries that make poison
-- Returns {requeued, poisoned, 1 if there is more to do}.
local leases, workers, active, dead, ended = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local inflight_prefix, meta_prefix, chunk, max_lost = ARGV[2], ARGV[3], tonumber(ARGV[4]), tonumber(ARGV[5])
local now = now_ms()

-- Whose own lease has run out has just lived through an outage, and so have the others: they get time to renew.
if tonumber(call('ZSCORE', leases, ARGV[1]) or 0) <= now then return { 0, 0, 0 } end

local gone = call('ZRANGEBYSCORE', leases, '-inf', now, 'LIMIT', 0, 1)[1]
if not gone then
  for _, worker in ipairs(call('ZRANGEBYSCORE', workers, '-inf', floor(now / 1000) - 300, 'LIMIT', 0, 10)) do
    if not call('ZSCORE', leases, worker) then gone = worker break end
  end
end
if not gone then return { 0, 0, 0 } end

local inflight = inflight_prefix .. gone
local requeued, poisoned = 0, 0
local ids = call('SRANDMEMBER', inflight, chunk)
for _, id in ipairs(ids) do
  local meta = meta_prefix .. id
  call('SREM', inflight, id)
  local m = pcall('HMGET', meta, 'attempts', 'lost')
  local lost = m.err and 1 or count(m[2], 0) + 1
  if m.err then
    call('LPUSH', active, id)      -- the claim puts the foreign key aside
    requeued = requeued + 1
  elseif lost >= max_lost then
    call('SADD', dead, id)
    call('ZADD', ended, now, id)
    call('HSET', meta, 'status', 'Killed', 'lost', lost, 'claim', '', 'done_at', floor(now / 1000), 'result',
      cjson.encode({ Err = 'poison: ' .. lost .. ' deliveries ended without an outcome' }))
    poisoned = poisoned + 1
  else
    call('LPUSH', active, id)
    call('HSET', meta, 'status', 'Pending', 'lost', lost, 'claim', '', 'attempts', math.max(0, count(m[1], 1) - 1))
    requeued = requeued + 1
  end
end
if #ids == chunk then return { requeued, poisoned, 1 } end
call('ZREM', leases, gone)
call('ZREM', workers, gone)
return { requeued, poisoned, 1 }
