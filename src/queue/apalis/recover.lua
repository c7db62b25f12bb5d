-- Puts back a chunk of the jobs of one dead replica: one whose lease has run out, or a stock apalis worker that was
-- not seen for five minutes.
-- KEYS 1 leases  2 workers  3 active  4 dead  5 ended:dead  6 witness of the fleet's renewals
-- ARGV 1 inflight prefix  2 meta prefix  3 chunk  4 lost deliveries that make poison  5 lease ttl ms  6 session prefix
--      7 history prefix
-- Returns {requeued, poisoned, 1 if there may be more to do}.
local leases, workers = KEYS[1], KEYS[2]
local inflight_prefix, meta_prefix, chunk, max_lost = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
local now = now_ms()

local gone = call('ZRANGEBYSCORE', leases, '-inf', now, 'LIMIT', 0, 1)[1]
-- Stock workers are looked for now and then: they get five minutes anyway.
if not gone and floor(now / 1000) % 60 < 15 then
  for _, worker in ipairs(call('ZRANGEBYSCORE', workers, '-inf', floor(now / 1000) - 300, 'LIMIT', 0, 10)) do
    if not call('ZSCORE', leases, worker) then
      gone = worker
      break
    end
  end
end
if not gone or not may_judge(KEYS[6], now, tonumber(ARGV[5])) then return { 0, 0, 0 } end

local inflight, tally = inflight_prefix .. gone, { requeued = 0, poisoned = 0, left = 0 }
local ids = call('SRANDMEMBER', inflight, chunk)
for _, id in ipairs(ids) do
  local fate = orphan(id, gone, inflight, KEYS[3], KEYS[4], KEYS[5], meta_prefix .. id, ARGV[7] .. id, max_lost, now)
  tally[fate] = tally[fate] + 1
end
if #ids < chunk then
  call('ZREM', leases, gone)
  call('ZREM', workers, gone)
  call('DEL', ARGV[6] .. gone)
end
return { tally.requeued, tally.poisoned, 1 }
