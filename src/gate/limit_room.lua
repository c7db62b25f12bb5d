-- Says how many calls the provider's limits would let pass now. Nothing is consumed.
-- KEYS  as in common.lua  11… lines of a queue whose jobs wait for the limits
-- ARGV  2-4 as in admit.lua  5-7 as in limits.lua  8 tokens that a call is expected to use  9 failure threshold
--       10… of each of KEYS 11…: the command that counts its jobs
-- Returns {how many calls, -1 for any number; ms until more of them may pass; the reason, or '';
--          how many calls, and ms, where they are spread over the minute; ms between two of these, how many may start at
--          once; how many jobs wait; ms until the breaker lets a call pass, 0 if it does; how many probes pass, -1 if it is
--          not half-open}
read_usage()
local most, reason, wait = math.huge, '', 0
local function allows(room, why)
  if room < most then
    most, reason = max(0, room), why
  end
end
local estimate, failure_threshold = tonumber(ARGV[8]), tonumber(ARGV[9])
if used.in_flight then allows(most_in_flight(failure_threshold) - used.in_flight, 'concurrency') end
if rpm > 0 then allows(rpm - used.requests + left('q'), 'rpm') end
if tpm > 0 and estimate > 0 then allows(floor((tpm - used.tokens + left('u')) / estimate), 'tpm') end
need_limits(estimate, function(why, ms)
  if ms > wait then
    most, reason, wait = 0, why, ms
  end
end, failure_threshold)
most = most == math.huge and -1 or floor(most)
local spread, next_spread = most, wait
if SPREAD > 0 then
  local due = min(used.spread, now + SPREAD_BURST * SPREAD) -- the limit may have been lower before
  spread = min(SPREAD_BURST, max(0, floor((now - due) / SPREAD) + SPREAD_BURST))
  if spread == 0 then next_spread = max(wait, due - (SPREAD_BURST - 1) * SPREAD - now, 1) end
end
local waiting = 0
for i = 11, #KEYS do
  -- A foreign key in the place of a line counts as an empty one.
  local jobs = redis.pcall(ARGV[i - 1], KEYS[i])
  if type(jobs) == 'number' then waiting = waiting + jobs end
end
local blocked_for, probes = 0, -1
if state == 'OPEN' and opened_at and opened_at <= now then
  blocked_for = max(0, opened_at + open_time(tonumber(ARGV[2])) - now)
elseif state == 'HALF_OPEN' and successes < tonumber(ARGV[4]) then
  local most_probes = fault and successes == 0 and 1 or max(tonumber(ARGV[3]), tonumber(ARGV[4]))
  probes = max(0, most_probes - call('ZCOUNT', PROBES, '(' .. now, '+inf') - successes)
end
local next_call, next_spread_call = max(0, floor(wait)), max(0, floor(next_spread))
return { most, next_call, reason, spread, next_spread_call, SPREAD, SPREAD_BURST, waiting, blocked_for, probes }
