-- Puts back the jobs that the queue counts as this worker's while the worker does not know of them: the answer to a
-- claim that never came, an outcome that could not be written. What was claimed a moment ago is left alone.
-- KEYS 1 inflight of this worker  2 active  3 dead  4 ended:dead
-- ARGV 1 worker  2 meta prefix  3 lost deliveries that make poison  4 lease ttl ms  5 history prefix
--      6… ids that the worker knows
-- Returns {requeued, poisoned}.
local known, tally, now = {}, { requeued = 0, poisoned = 0, left = 0 }, now_ms()
for i = 6, #ARGV do known[ARGV[i]] = true end
for _, id in ipairs(call('SMEMBERS', KEYS[1])) do
  local meta = ARGV[2] .. id
  local locked_at = (tonumber(read_meta(meta, 'locked_at')[1] or nil) or 0) * 1000
  -- A time that is none, or still to come, is no moment ago either.
  if not known[id] and not (locked_at >= now - tonumber(ARGV[4]) and locked_at <= now) then
    local fate = orphan(id, ARGV[1], KEYS[1], KEYS[2], KEYS[3], KEYS[4], meta, ARGV[5] .. id,
      tonumber(ARGV[3]), now)
    tally[fate] = tally[fate] + 1
  end
end
return { tally.requeued, tally.poisoned }
