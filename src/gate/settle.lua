-- Settles permits: frees their slots, corrects their charges, reports to the breaker. Each permit counts exactly once,
-- because only the removal of its lease settles it.
-- ARGV first … last are of each permit: id, outcome, tokens really used (-1 unknown), throttle the provider
-- for ms (0 no).
--   outcome  success | failure | ignored (it was sent) | cancelled (never sent: all is refunded)
--            failure:<word> for one that a fault of the account has caused
-- Returns for each {effect, state, failures or successes that count now, failures among the last calls, last calls}
--   effect   recorded | opened | reopened | closed | ignored
--            stale    admitted in an earlier epoch: the breaker does not move
--            expired  the lease has run out: the breaker does not move
--            unknown  settled before, or swept: nothing was done
local function settle_all(first, last)
  local open_for, success_threshold, failure_threshold = tonumber(ARGV[2]), tonumber(ARGV[4]), tonumber(ARGV[8])
  local window, share = tonumber(ARGV[9]), tonumber(ARGV[10])
  -- How many of the last calls the share is taken of.
  local LAST_CALLS = 10

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
    -- The count alone does not open the breaker: no more failures than it asks for are worth keeping.
    while #ring > failure_threshold do
      table.remove(ring, 1)
    end
    return ring
  end

  -- Notes how a call of a closed breaker has ended. Ten successes after ten successes change nothing, and cost nothing.
  local function note_call(ended)
    local noted = string.sub(calls .. ended, -LAST_CALLS)
    if noted ~= calls then
      calls, calls_changed = noted, true
    end
  end

  -- Opens the breaker, for longer than the last time unless it was closed for long enough in between.
  local function open_again()
    local stable = state == 'CLOSED' and now - epoch >= max(window, last_open_time(open_for))
    local n = stable and 1 or opens + 1
    enter('OPEN')
    opens, opens_epoch = n, epoch
    call('HSET', META, 'opens', string.format('%.0f:%.0f', n, epoch))
  end

  -- Corrections belong in the bucket that was charged, while that is still counted.
  local counted, owed = {}, {}
  local function owe(bucket, kind, slice, total, by)
    if counted[bucket] == nil then counted[bucket] = call('HEXISTS', WIN, 'r' .. bucket) == 1 end
    if not counted[bucket] then return end
    for _, field in ipairs({ kind .. bucket, slice, total }) do
      owed[field] = (owed[field] or 0) + by
    end
  end

  local function settle(id, outcome, used, throttle, lease)
    if not lease then return { 'unknown', state, 0, 0, 0 } end
    local word = string.match(outcome, '^failure:(%l+)$')
    if word then outcome = 'failure' end
    local expires = whole(call('ZSCORE', LEASES, id)) or 0
    local lease_epoch, probe, bucket, estimate, slice = string.match(lease, '^(%d+):(%d):(%d+):(%d+):(%d+)$')
    local was_probe = probe ~= '0' and call('ZREM', PROBES, id) == 1
    if bucket then
      if outcome == 'cancelled' then
        owe(bucket, 'r', 'q' .. slice, 'requests', -1)
        used = 0
      end
      if used >= 0 and used ~= tonumber(estimate) then owe(bucket, 't', 'u' .. slice, 'tokens', used - estimate) end
    end
    if throttle > 0 and now + throttle > (whole(call('HGET', WIN, 'throttled')) or 0) then
      call('HSET', WIN, 'throttled', now + throttle, 'hw', now)
    end

    local effect, count, failed, of_calls = 'ignored', 0, 0, 0
    if tonumber(lease_epoch) ~= epoch then
      effect = 'stale'
    elseif expires <= now then
      effect = 'expired'
    elseif outcome == 'success' then
      effect = 'recorded'
      note_fault(nil)
      if state == 'CLOSED' then note_call('S') end
      if state == 'HALF_OPEN' then
        count = successes + 1
        if count >= success_threshold then
          enter('CLOSED')
          ramp_epoch = epoch
          call('HSET', META, 'ramp', epoch)
          effect = 'closed'
        else
          successes = count
          call('SET', SUCCESSES, count)
        end
      end
    elseif outcome == 'failure' then
      effect = 'recorded'
      note_fault(word)
      if state == 'HALF_OPEN' then
        open_again()
        effect, count = 'reopened', 1
        call('SET', FAILURES, count, 'PX', window)
      elseif state == 'CLOSED' then
        local ring = failures_with_this()
        note_call('F')
        count, of_calls = #ring, #calls
        failed = select(2, string.gsub(calls, 'F', ''))
        if count >= failure_threshold and failed * 100 >= share * of_calls then
          open_again()
          effect = 'opened'
        else
          call('HSET', META, 'ring', table.concat(ring, ','), 'hw', now)
        end
        call('SET', FAILURES, count, 'PX', window)
      end
    end
    if was_probe and state == 'HALF_OPEN' then call('SET', ATTEMPTS, call('ZCARD', PROBES) + successes) end
    return { effect, state, count, failed, of_calls }
  end

  local ids, leases, answers = {}, {}, {}
  for i = first, last, 4 do
    ids[#ids + 1] = ARGV[i]
  end
  for i, lease in ipairs(call('HMGET', LEASE_DATA, unpack(ids))) do
    leases[ids[i]] = lease
  end
  for i, id in ipairs(ids) do
    local at = first + 4 * (i - 1)
    answers[i] = settle(id, ARGV[at + 1], tonumber(ARGV[at + 2]), tonumber(ARGV[at + 3]), leases[id])
    leases[id] = nil -- The same permit again is settled already.
  end
  call('ZREM', LEASES, unpack(ids))
  call('HDEL', LEASE_DATA, unpack(ids))
  if calls_changed then call('HSET', META, 'calls', string.format('%.0f', epoch) .. ':' .. calls) end
  for field, by in pairs(owed) do
    call('HINCRBY', WIN, field, by)
  end
  return answers
end
