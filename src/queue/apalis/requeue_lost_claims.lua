-- Puts back jobs that the queue counts as this worker's while the worker does not know of them: the answer to a claim
-- that never came, an outcome that could not be written.
-- KEYS 1 inflight of this worker  2 active  3 dead  4 ended:dead
-- ARGV 1 worker  2 meta prefix  3 lost deliveries that make poison  4 lease ttl ms: what was claimed since is left alone
--      5 history prefix  6… ids
-- Returns {requeued, poisoned}.
local tally, now = { requeued = 0, poisoned = 0, left = 0 }, now_ms()
for i = 6, #ARGV do
  local id, meta = ARGV[i], ARGV[2] .. ARGV[i]
  if call('SISMEMBER', KEYS[1], id) == 1 and not claimed_since(meta, now - tonumber(ARGV[4]), now) then
    local fate = orphan(id, ARGV[1], KEYS[1], KEYS[2], KEYS[3], KEYS[4], meta, ARGV[5] .. id, tonumber(ARGV[3]), now)
    tally[fate] = tally[fate] + 1
  end
end
return { tally.requeued, tally.poisoned }
