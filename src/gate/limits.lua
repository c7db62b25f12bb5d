-- Second prelude, of the scripts that look at the provider's limits.
-- ARGV of these scripts  5 requests a minute  6 tokens a minute  7 calls in flight (0 no limit)
local rpm, tpm, max_concurrent = tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7])
-- Slots come free whenever a call ends: a rejection asks to look again soon.
local SLOT_HINT = 250
local bucket, slice = floor(now / BUCKET), floor(now / SLICE)
local SLICES = BUCKET / SLICE
-- Where jobs of several owners wait for the limit of requests, claims are spread over the minute: a burst of one would
-- leave nothing for the others until it leaves the window.
local SPREAD = rpm > 0 and max(1, floor((WINDOW + GRACE + SLICE) / rpm)) or 0
-- Calls that may start at once, at most: what is taken at once leaves a gap a minute later, 2.4 s at any limit from 50 on.
local SPREAD_BURST = max(2, floor(rpm / 25))

-- The counts of the limits, read at the first use and written once at the end.
local used

-- A count that another program may have written.
local function counted(text)
  local n = tonumber(text or nil)
  return n and n == n and n or 0
end

local function read_usage()
  if used then return end
  local win = call(
    'HMGET',
    WIN,
    'oldest',
    'requests',
    'tokens',
    'throttled',
    'r' .. bucket,
    't' .. bucket,
    'q' .. slice,
    'u' .. slice,
    'spread'
  )
  used = {
    oldest = whole(win[1]),
    requests = counted(win[2]),
    tokens = counted(win[3]),
    throttled = whole(win[4]) or 0,
    r = counted(win[5]),
    t = counted(win[6]),
    q = counted(win[7]),
    u = counted(win[8]),
    spread = whole(win[9]) or 0,
  }

  local dead = call('ZRANGEBYSCORE', LEASES, '-inf', now, 'LIMIT', 0, 100)
  if #dead > 0 then
    call('ZREM', LEASES, unpack(dead))
    call('HDEL', LEASE_DATA, unpack(dead))
  end
  used.in_flight = (max_concurrent > 0 or fault) and call('ZCOUNT', LEASES, '(' .. now, '+inf')

  local first_counted = bucket - BUCKETS
  if not used.oldest then
    used.oldest = first_counted
  elseif used.oldest < first_counted then
    local names, slices = {}, {}
    for i = used.oldest, min(first_counted - 1, used.oldest + BUCKETS) do
      names[#names + 1] = 'r' .. i
      names[#names + 1] = 't' .. i
      for s = i * SLICES, (i + 1) * SLICES - 1 do
        slices[#slices + 1] = 'q' .. s
        slices[#slices + 1] = 'u' .. s
      end
    end
    local counts = call('HMGET', WIN, unpack(names))
    for i = 1, #counts, 2 do
      used.requests = used.requests - counted(counts[i])
      used.tokens = used.tokens - counted(counts[i + 1])
    end
    call('HDEL', WIN, unpack(names))
    call('HDEL', WIN, unpack(slices))
    used.oldest = first_counted
    call('HSET', WIN, 'oldest', used.oldest, 'requests', used.requests, 'tokens', used.tokens, 'hw', now)
  end
end

-- The counts of fields `kind`first … `kind`last, as numbers.
local function counts_of(kind, first, last)
  local names = {}
  for i = first, last do
    names[#names + 1] = kind .. i
  end
  local counts = #names > 0 and call('HMGET', WIN, unpack(names)) or {}
  for i, n in ipairs(counts) do
    counts[i] = counted(n)
  end
  return counts
end

-- How much of what the oldest buckets hold has left the window.
local left_window = {}
local function left(kind)
  if not left_window[kind] then
    local sum = 0
    for _, n in ipairs(counts_of(kind, used.oldest * SLICES, floor((now - WINDOW - GRACE) / SLICE) - 1)) do
      sum = sum + n
    end
    left_window[kind] = sum
  end
  return left_window[kind]
end

-- How long until `cost` more fits the limit; 0 where it does now. `total` is what all buckets hold.
local function until_it_fits(bucket_kind, slice_kind, total, cost, limit)
  if total + cost <= limit then return 0 end
  total = total - left(slice_kind)
  if total + cost <= limit then return 0 end
  local gone = floor((now - WINDOW - GRACE) / SLICE) - 1
  local buckets = counts_of(bucket_kind, used.oldest, bucket)
  local slices = counts_of(slice_kind, used.oldest * SLICES, slice)
  -- Includes grants of this call, which are not written yet.
  buckets[#buckets], slices[#slices] = used[bucket_kind], used[slice_kind]
  for i, count in ipairs(buckets) do
    for s = (i - 1) * SLICES + 1, min(i * SLICES, #slices) do
      local number = used.oldest * SLICES + s - 1
      count = count - slices[s]
      if number > gone then
        total = total - slices[s]
        if total + cost <= limit then return (number + 1) * SLICE + WINDOW + GRACE - now end
      end
    end
    -- Replicas before slices have counted the rest.
    total = total - max(0, count)
    if total + cost <= limit then return (used.oldest + i - 1 + BUCKETS + 1) * BUCKET - now end
  end
  return WINDOW
end

-- How many calls may be in flight. A fault of the account fails every call: while it lasts, no more are in flight than it
-- takes to open the breaker, which opens at `failure_threshold` failures (nil: not looked at).
local function most_in_flight(failure_threshold)
  local limit = ramped(max_concurrent)
  local most = limit > 0 and limit or math.huge
  if not fault or state ~= 'CLOSED' or not failure_threshold then return most end
  return min(most, max(1, failure_threshold - (whole(call('GET', FAILURES)) or 0)))
end

-- Calls needs(reason, ms to wait, 0 or less for none) for each limit that a call may meet.
local function need_limits(estimate, needs, failure_threshold)
  needs('throttled', used.throttled - now)
  if used.in_flight and used.in_flight >= most_in_flight(failure_threshold) then
    local first = call('ZRANGEBYSCORE', LEASES, '(' .. now, '+inf', 'WITHSCORES', 'LIMIT', 0, 1)
    needs('concurrency', min(SLOT_HINT, (whole(first[2]) or now + lease_ttl) - now))
  end
  if rpm > 0 then needs('rpm', until_it_fits('r', 'q', used.requests, 1, rpm)) end
  if tpm > 0 and estimate > 0 then needs('tpm', until_it_fits('t', 'u', used.tokens, estimate, tpm)) end
end

-- Counts a call that is admitted.
local function charge(estimate)
  used.spread = max(used.spread, now) + SPREAD
  used.requests, used.r, used.q = used.requests + 1, used.r + 1, used.q + 1
  used.tokens, used.t, used.u = used.tokens + estimate, used.t + estimate, used.u + estimate
  used.in_flight = used.in_flight and used.in_flight + 1
end

local function write_usage()
  call(
    'HSET',
    WIN,
    'hw',
    now,
    'oldest',
    used.oldest,
    'requests',
    used.requests,
    'tokens',
    used.tokens,
    'r' .. bucket,
    used.r,
    't' .. bucket,
    used.t,
    'q' .. slice,
    used.q,
    'u' .. slice,
    used.u,
    'spread',
    used.spread
  )
end
