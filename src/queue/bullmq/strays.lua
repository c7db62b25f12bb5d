-- Puts back a chunk of the jobs that the queue counts as this worker's while the worker does not know of them: the answer
-- to a claim that never came, an outcome that could not be written. What was claimed a moment ago is left alone.
-- KEYS 1 prefix
-- ARGV 1 worker  2 lost deliveries that make poison  3 lock ms  4 chunk  5… ids that the worker knows
-- Returns {requeued, poisoned}.
local tokens, max_lost, chunk = ARGV[1] .. ':', tonumber(ARGV[2]), tonumber(ARGV[4])
local known, tally, now = {}, { requeued = 0, poisoned = 0 }, now_ms()
for i = 5, #ARGV do known[ARGV[i]] = true end
expect_ends('failed')
for _, id in ipairs(call('LRANGE', P .. 'active', 0, -1)) do
  if tally.requeued + tally.poisoned == chunk then break end
  if not known[id] then
    local m = protected('HMGET', P .. id, 'bw:claim', 'ats', 'processedOn')
    local token = not m.err and m[1] and m[1]:sub(1, #tokens) == tokens and m[1]:match('^(.*) %d+$')
    if token and m[1] == mark(token, m[2]) and count(m[3], 0) < now - tonumber(ARGV[3]) then
      local fate = orphan(id, max_lost, now)
      tally[fate] = tally[fate] + 1
    end
  end
end
return { tally.requeued, tally.poisoned }
