-- Checks a stretch of the claimed jobs, the oldest first, and puts back a chunk of those whose lock has run out: their
-- worker is dead, or can no longer write an outcome.
--
-- Unlike BullMQ's own sweep, this one neither marks suspects first nor takes turns with others (`stalled-check`): no
-- worker gets an expired lock back, so to wait for a second look would only be slower.
-- KEYS 1 prefix
-- ARGV 1 where to begin: claimed jobs that are passed over  2 stretch  3 chunk  4 lost deliveries that make poison  5 lock ms
-- Returns {requeued, poisoned, where to go on, or -1 at the end}.
local offset, stretch, chunk, max_lost = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local tally, left, walked = { requeued = 0, poisoned = 0 }, 0, 0
-- Claims are pushed in front: the oldest is the last.
local claimed = call('LRANGE', P .. 'active', -offset - stretch, -offset - 1)
if #claimed == 0 then return { 0, 0, -1 } end
local now = now_ms()
if not may_judge(P .. 'bw:witness', now, tonumber(ARGV[5])) then return { 0, 0, -1 } end
expect_ends('failed')
for i = #claimed, 1, -1 do
  local id = claimed[i]
  if tally.requeued + tally.poisoned == chunk or walked > FARTHEST then
    tidy(now)
    return { tally.requeued, tally.poisoned, offset + left }
  end
  if call('EXISTS', P .. id .. ':lock') == 1 then
    left = left + 1
  else
    walked = walked + offset + left
    if call('TYPE', P .. id).ok ~= 'hash' then
      call('LREM', P .. 'active', -1, id)
    else
      local fate = orphan(id, max_lost, now)
      tally[fate] = tally[fate] + 1
    end
  end
end
tidy(now)
return { tally.requeued, tally.poisoned, #claimed == stretch and offset + left or -1 }
