-- Puts back jobs that the queue counts as this worker's while the worker does not know of them: the answer to a claim
-- that never came, an outcome that could not be written.
-- KEYS 1 prefix
-- ARGV 1 worker  2 lost deliveries that make poison  3 lock ms: what was claimed since is left alone  4… ids
-- Returns {requeued, poisoned, how many of the ids were dealt with}.
local tokens, max_lost, now = ARGV[1] .. ':', tonumber(ARGV[2]), now_ms()
local tally, walked = { requeued = 0, poisoned = 0 }, 0
expect_ends('failed')
for i = 4, #ARGV do
  if walked > FARTHEST then
    tidy(now)
    return { tally.requeued, tally.poisoned, i - 4 }
  end
  walked = walked + in_flight
  if claim_of(ARGV[i], tokens, now - tonumber(ARGV[3])) and call('LPOS', P .. 'active', ARGV[i]) then
    local fate = orphan(ARGV[i], max_lost, now)
    tally[fate] = tally[fate] + 1
  end
end
tidy(now)
return { tally.requeued, tally.poisoned, #ARGV - 3 }
