-- Asks for permits, one for each call, in this order: a later one sees what an earlier one was granted. ARGV first … last
-- are of each call: permit id, tokens that it will use (0 not limited).
-- Returns for each {state, epoch, now ms, state that it moved the breaker to or nil,
--                   {reason, retry after ms (-1 never), the account's fault behind the breaker or ''} or nil,
--                   {1 probe | 0, lease ends ms} or nil}
-- Asked again with the same ids after a lost reply it returns the same permits, and charges nothing.
local function admit_all(first, last)
  local open_for, half_open_max, success_threshold = tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
  local rpm, tpm, max_concurrent = tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7])
  local pace, burst = tonumber(ARGV[8]), tonumber(ARGV[9])
  -- Probes and slots come free whenever a call ends: a rejection asks to look again soon.
  local PROBE_HINT, SLOT_HINT = 1000, 250
  -- With fewer probes than successes wanted, HALF_OPEN could never close.
  half_open_max = max(half_open_max, success_threshold)

  local moved_to
  local function granted(permit_epoch, probe, expires)
    return { state, permit_epoch, now, moved_to, false, { probe, expires } }
  end
  local function refused(reason, wait)
    return { state, epoch, now, moved_to, { reason, wait < 0 and -1 or max(1, floor(wait)), fault or '' }, false }
  end

  -- What the limits count, read when the first call gets that far, and written once at the end.
  local bucket = floor(now / BUCKET)
  local oldest, requests, tokens, due, throttled, in_flight, requests_now, tokens_now
  local new_leases, new_data = {}, {}

  local function read_limits()
    if oldest then return end
    local win = call('HMGET', WIN, 'oldest', 'requests', 'tokens', 'tat', 'throttled', 'r' .. bucket, 't' .. bucket)
    due, throttled = whole(win[4]) or 0, whole(win[5]) or 0
    requests_now, tokens_now = tonumber(win[6] or nil) or 0, tonumber(win[7] or nil) or 0

    local dead = call('ZRANGEBYSCORE', LEASES, '-inf', now, 'LIMIT', 0, 100)
    if #dead > 0 then
      call('ZREM', LEASES, unpack(dead))
      call('HDEL', LEASE_DATA, unpack(dead))
    end
    in_flight = (max_concurrent > 0 or fault) and call('ZCOUNT', LEASES, '(' .. now, '+inf')

    -- One bucket more than the window is long is counted, the oldest in full: never above the limit in any window.
    requests, tokens = tonumber(win[2] or nil) or 0, tonumber(win[3] or nil) or 0
    oldest = whole(win[1])
    local first_counted = bucket - BUCKETS
    if not oldest then
      oldest = first_counted
    elseif oldest < first_counted then
      local names = {}
      for i = oldest, min(first_counted - 1, oldest + BUCKETS) do
        names[#names + 1] = 'r' .. i
        names[#names + 1] = 't' .. i
      end
      local counts = call('HMGET', WIN, unpack(names))
      for i = 1, #counts, 2 do
        requests = requests - (tonumber(counts[i] or nil) or 0)
        tokens = tokens - (tonumber(counts[i + 1] or nil) or 0)
      end
      call('HDEL', WIN, unpack(names))
      oldest = first_counted
      call('HSET', WIN, 'oldest', oldest, 'requests', requests, 'tokens', tokens, 'hw', now)
    end
  end

  -- A fault of the account fails every call: while it lasts, no more are in flight than it takes to open the breaker.
  local function may_be_in_flight()
    local limit = ramped(max_concurrent)
    if not fault or state ~= 'CLOSED' then return limit > 0 and limit or math.huge end
    local missing = max(1, tonumber(ARGV[10]) - (whole(call('GET', FAILURES)) or 0))
    return limit > 0 and min(limit, missing) or missing
  end

  local function until_free(prefix, newest, total, cost, limit)
    local names = {}
    for i = oldest, bucket do names[#names + 1] = prefix .. i end
    local counts = call('HMGET', WIN, unpack(names))
    counts[#counts] = newest -- What was granted just now is not written yet.
    for i, count in ipairs(counts) do
      total = total - (tonumber(count or nil) or 0)
      if total + cost <= limit then return (oldest + i - 1 + BUCKETS + 1) * BUCKET - now end
    end
    return WINDOW
  end

  -- Where several limits stand in the way, the longest wait is told.
  local why, longest
  local function needs(reason, wait)
    if wait > longest then why, longest = reason, wait end
  end

  local function admit(id, estimate, earlier)
    moved_to, why, longest = false, nil, 0
    if earlier then
      local expires = whole(call('ZSCORE', LEASES, id)) or 0
      local lease_epoch, probe = string.match(earlier, '^(%d+):(%d):')
      if lease_epoch and expires > now then return granted(tonumber(lease_epoch), tonumber(probe), expires) end
    end

    -- The breaker.
    local half_opens, live_probes = false, 0
    if state == 'HALF_OPEN' and successes >= success_threshold then
      enter('CLOSED')
      ramp_epoch = epoch
      call('HSET', META, 'ramp', epoch)
      moved_to = state
    end
    if state == 'OPEN' then
      if not opened_at or opened_at > now then -- missing, or from the future
        opened_at = now
        call('SET', OPENED_AT, now)
        call('HSET', META, 'hw', now)
      end
      local left = opened_at + open_time(open_for) - now
      if left > 0 then return refused('open', left) end
      half_opens = true
    elseif state == 'HALF_OPEN' then
      local gone = call('ZREMRANGEBYSCORE', PROBES, '-inf', now)
      live_probes = call('ZCARD', PROBES)
      if gone > 0 then call('SET', ATTEMPTS, live_probes + successes) end
      -- Another probe cannot pay a bill or mend a key: one at a time shows whether somebody has.
      if live_probes + successes >= (fault and successes == 0 and 1 or half_open_max) then
        local first = call('ZRANGE', PROBES, 0, 0, 'WITHSCORES')
        return refused('half_open', min(PROBE_HINT, (whole(first[2]) or now) - now))
      end
    end

    -- The limits.
    read_limits()
    needs('throttled', throttled - now)
    if in_flight and in_flight >= may_be_in_flight() then
      local first = call('ZRANGEBYSCORE', LEASES, '(' .. now, '+inf', 'WITHSCORES', 'LIMIT', 0, 1)
      needs('concurrency', min(SLOT_HINT, (whole(first[2]) or now + lease_ttl) - now))
    end
    if rpm > 0 and requests + 1 > rpm then needs('rpm', until_free('r', requests_now, requests, 1, rpm)) end
    if tpm > 0 and estimate > 0 then
      if estimate > tpm then return refused('too_large', -1) end
      if tokens + estimate > tpm then needs('tpm', until_free('t', tokens_now, tokens, estimate, tpm)) end
    end
    -- The pace (GCRA): the time at which the next call would be due, were all of them evenly spread.
    if pace > 0 then
      due = min(due, now + burst * pace) -- a slower pace may have been configured before
      needs('pace', due - (burst - 1) * pace - now)
    end
    if why then return refused(why, longest) end

    -- The commit.
    if half_opens then
      enter('HALF_OPEN')
      moved_to = state
    end
    local probe, expires = 0, now + lease_ttl
    if state == 'HALF_OPEN' then
      probe = 1
      call('ZADD', PROBES, expires, id)
      call('SET', ATTEMPTS, live_probes + successes + 1)
      call('HSET', META, 'hw', now)
    end
    due = max(due, now) + pace
    requests, requests_now, in_flight = requests + 1, requests_now + 1, in_flight and in_flight + 1
    tokens, tokens_now = tokens + estimate, tokens_now + estimate
    new_leases[#new_leases + 1], new_leases[#new_leases + 2] = expires, id
    new_data[#new_data + 1], new_data[#new_data + 2] = id, epoch .. ':' .. probe .. ':' .. bucket .. ':' .. estimate
    return granted(epoch, probe, expires)
  end

  local ids, answers = {}, {}
  for i = first, last, 2 do ids[#ids + 1] = ARGV[i] end
  local earlier = call('HMGET', LEASE_DATA, unpack(ids))
  for i, id in ipairs(ids) do answers[i] = admit(id, tonumber(ARGV[first + 2 * i - 1]), earlier[i]) end
  if #new_leases > 0 then
    call('HSET', WIN, 'hw', now, 'oldest', oldest, 'requests', requests, 'tokens', tokens, 'tat', due,
      'r' .. bucket, requests_now, 't' .. bucket, tokens_now)
    call('ZADD', LEASES, unpack(new_leases))
    call('HSET', LEASE_DATA, unpack(new_data))
  end
  return answers
end

