-- Puts back a chunk of the jobs whose lock has run out: their worker is dead, or could write nothing any more.
--
-- Unlike BullMQ's own sweep, this one neither marks suspects first nor takes turns with others (`stalled-check`): no
-- worker gets an expired lock back, so to wait for a second look would only be slower.
-- KEYS 1 prefix
-- ARGV 1 chunk  2 lost deliveries that make poison
-- Returns {requeued, poisoned, 1 if there is more to do}.
local chunk, max_lost = tonumber(ARGV[1]), tonumber(ARGV[2])
local now, tally = now_ms(), { requeued = 0, poisoned = 0 }
local claimed = call('LRANGE', P .. 'active', 0, -1)
if #claimed == 0 then return { 0, 0, 0 } end
expect_ends('failed')
for _, id in ipairs(claimed) do
  if tally.requeued + tally.poisoned == chunk then return { tally.requeued, tally.poisoned, 1 } end
  if call('EXISTS', P .. id .. ':lock') == 0 then
    if call('TYPE', P .. id).ok ~= 'hash' then
      call('LREM', P .. 'active', 1, id)
    else
      local fate = orphan(id, max_lost, now)
      tally[fate] = tally[fate] + 1
    end
  end
end
return { tally.requeued, tally.poisoned, 0 }
