-- Puts back a chunk of the jobs of one dead replica: one whose lease has run out, or a stock apalis worker that was
-- not seen for five minutes.
-- KEYS 1 leases  2 workers  3 active  4 dead  5 ended:dead  6 session of the worker that asks
-- ARGV 1 worker that asks  2 inflight prefix  3 meta prefix  4 chunk  5 lost deliveries that make poison
--      6 lease ttl ms  7 session prefix  8 history prefix
-- Returns {requeued, poisoned, 1 if there may be more to do}.
local leases, workers = KEYS[1], KEYS[2]
local inflight_prefix, meta_prefix, chunk, max_lost = ARGV[2], ARGV[3], tonumber(ARGV[4]), tonumber(ARGV[5])
local now = now_ms()

local gone = call('ZRANGEBYSCORE', leases, '-inf', now, 'LIMIT', 0, 1)[1]
-- Stock workers are looked for now and then: they get five minutes anyway.
if not gone and floor(now / 1000) % 60 < 15 then
  for _, worker in ipairs(call('ZRANGEBYSCORE', workers, '-inf', floor(now / 1000) - 300, 'LIMIT', 0, 10)) do
    if not call('ZSCORE', leases, worker) then gone = worker break end
  end
end
if not gone then return { 0, 0, 0 } end

-- Whose own lease was broken within the last ttl has just lived through an outage, and so have the others: they get
-- time to renew theirs.
local since = tonumber(call('HGET', KEYS[6], 'since') or now)
if tonumber(call('ZSCORE', leases, ARGV[1]) or 0) <= now or now - since < tonumber(ARGV[6]) then return { 0, 0, 0 } end

local inflight, tally = inflight_prefix .. gone, { requeued = 0, poisoned = 0, left = 0 }
local ids = call('SRANDMEMBER', inflight, chunk)
for _, id in ipairs(ids) do
  local fate = orphan(id, gone, inflight, KEYS[3], KEYS[4], KEYS[5], meta_prefix .. id, ARGV[8] .. id, max_lost, now)
  tally[fate] = tally[fate] + 1
end
if #ids < chunk then
  call('ZREM', leases, gone)
  call('ZREM', workers, gone)
  call('DEL', ARGV[7] .. gone)
end
return { tally.requeued, tally.poisoned, 1 }
