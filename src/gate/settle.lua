-- Settles a permit: frees its slot, corrects what it was charged, tells the breaker. Exactly once: removing the lease
-- decides.
-- KEYS  as in common.lua
-- ARGV  2 permit id  3 outcome: success | failure | ignored (it was sent) | cancelled (never sent: all is refunded)
--       4 tokens really used (-1 unknown)  5 throttle the provider for ms (0 no)
--       6 failure threshold  7 success threshold  8 failure window ms
-- Returns {effect, state, failures or successes that count now}
--   effect  recorded | opened | reopened | closed | ignored
--           stale    admitted in an earlier epoch: the breaker does not move
--           expired  the lease has run out: the breaker does not move
--           unknown  settled before, or swept: nothing was done
local id, outcome, used, throttle = ARGV[2], ARGV[3], tonumber(ARGV[4]), tonumber(ARGV[5])
local failure_threshold, success_threshold, window = tonumber(ARGV[6]), tonumber(ARGV[7]), tonumber(ARGV[8])

local lease = call('HGET', LEASE_DATA, id)
if not lease then return { 'unknown', state, 0 } end
local expires = whole(call('ZSCORE', LEASES, id)) or 0
call('ZREM', LEASES, id)
call('HDEL', LEASE_DATA, id)
local was_probe = call('ZREM', PROBES, id) == 1
local lease_epoch, bucket, estimate = string.match(lease, '^(%d+):%d:(%d+):(%d+)$')

-- The correction belongs in the bucket that was charged, while that is still counted.
if bucket and call('HEXISTS', WIN, 'r' .. bucket) == 1 then
  if outcome == 'cancelled' then
    call('HINCRBY', WIN, 'r' .. bucket, -1)
    call('HINCRBY', WIN, 'requests', -1)
    used = 0
  end
  if used >= 0 and used ~= tonumber(estimate) then
    call('HINCRBY', WIN, 't' .. bucket, used - estimate)
    call('HINCRBY', WIN, 'tokens', used - estimate)
  end
end
if throttle > 0 and now + throttle > (whole(call('HGET', WIN, 'throttled')) or 0) then
  call('HSET', WIN, 'throttled', now + throttle, 'hw', now)
end

-- The last failures that count, this one included. Without its count (expired, or deleted by a reset) the ring is void.
local function failures_with_this()
  local ring = {}
  if call('EXISTS', FAILURES) == 1 then
    for text in string.gmatch(call('HGET', META, 'ring') or '', '%d+') do
      local at = tonumber(text)
      if at > now - window and at <= now then ring[#ring + 1] = text end
    end
  end
  ring[#ring + 1] = string.format('%.0f', now)
  return ring
end

local effect, count = 'ignored', 0
if tonumber(lease_epoch) ~= epoch then
  effect = 'stale'
elseif expires <= now then
  effect = 'expired'
elseif outcome == 'success' then
  effect = 'recorded'
  if state == 'HALF_OPEN' then
    count = successes + 1
    if count >= success_threshold then
      enter('CLOSED')
      effect = 'closed'
    else
      successes = count
      call('SET', SUCCESSES, count)
    end
  end
elseif outcome == 'failure' then
  effect = 'recorded'
  if state == 'HALF_OPEN' then
    enter('OPEN')
    effect, count = 'reopened', 1
    call('SET', FAILURES, count, 'PX', window)
  elseif state == 'CLOSED' then
    local ring = failures_with_this()
    count = #ring
    if count >= failure_threshold then
      enter('OPEN')
      effect = 'opened'
    else
      call('HSET', META, 'ring', table.concat(ring, ','), 'hw', now)
    end
    call('SET', FAILURES, count, 'PX', window)
  end
end
if was_probe and state == 'HALF_OPEN' then call('SET', ATTEMPTS, call('ZCARD', PROBES) + successes) end
return { effect, state, count }
