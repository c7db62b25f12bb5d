-- Admits a call, or says why not and for how long. Decides first; then commits all or nothing.
-- KEYS  as in common.lua
-- ARGV  2 permit id  3 open for ms  4 half-open maximum  5 success threshold
--       6 requests a minute  7 tokens a minute  8 concurrent calls  9 pace: ms between calls (each 0: no limit)
--       10 pace: calls that may come at once  11 estimated tokens
-- Returns {state, epoch, now ms, state that the breaker was moved to or nil,
--          {reason, retry after ms (-1 never)} or nil, {1 probe | 0, lease ends ms} or nil}
-- Sent again with the same id after a lost reply it returns the same permit, and charges nothing.
local id = ARGV[2]
local open_for, half_open_max, success_threshold = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local rpm, tpm, max_concurrent = tonumber(ARGV[6]), tonumber(ARGV[7]), tonumber(ARGV[8])
local pace, burst, estimate = tonumber(ARGV[9]), tonumber(ARGV[10]), tonumber(ARGV[11])
-- Probes and slots come free whenever a call ends: a rejection asks to look again soon.
local PROBE_HINT, SLOT_HINT = 1000, 250

local moved_to = false
local function granted(permit_epoch, probe, expires)
  return { state, permit_epoch, now, moved_to, false, { probe, expires } }
end
local function refused(reason, wait)
  return { state, epoch, now, moved_to, { reason, wait < 0 and -1 or max(1, floor(wait)) }, false }
end

local earlier = call('HGET', LEASE_DATA, id)
if earlier then
  local expires = whole(call('ZSCORE', LEASES, id)) or 0
  local lease_epoch, probe = string.match(earlier, '^(%d+):(%d):')
  if lease_epoch and expires > now then return granted(tonumber(lease_epoch), tonumber(probe), expires) end
end

-- The breaker. With fewer probes than successes wanted, HALF_OPEN could never close.
half_open_max = max(half_open_max, success_threshold)
local half_opens, live_probes = false, 0
if state == 'HALF_OPEN' and successes >= success_threshold then
  enter('CLOSED')
  moved_to = state
end
if state == 'OPEN' then
  if not opened_at or opened_at > now then -- missing, or from the future
    opened_at = now
    call('SET', OPENED_AT, now)
    call('HSET', META, 'hw', now)
  end
  local left = opened_at + open_for - now
  if left > 0 then return refused('open', left) end
  half_opens = true
elseif state == 'HALF_OPEN' then
  local gone = call('ZREMRANGEBYSCORE', PROBES, '-inf', now)
  live_probes = call('ZCARD', PROBES)
  if gone > 0 then call('SET', ATTEMPTS, live_probes + successes) end
  if live_probes + successes >= half_open_max then
    local first = call('ZRANGE', PROBES, 0, 0, 'WITHSCORES')
    return refused('half_open', min(PROBE_HINT, (whole(first[2]) or now) - now))
  end
end

-- The limits. Where several stand in the way, the longest wait is told.
local why, longest = nil, 0
local function needs(reason, wait)
  if wait > longest then why, longest = reason, wait end
end

local bucket = floor(now / BUCKET)
local win = call('HMGET', WIN, 'oldest', 'requests', 'tokens', 'tat', 'throttled', 'r' .. bucket, 't' .. bucket)
needs('throttled', (whole(win[5]) or 0) - now)

local dead = call('ZRANGEBYSCORE', LEASES, '-inf', now, 'LIMIT', 0, 100)
if #dead > 0 then
  call('ZREM', LEASES, unpack(dead))
  call('HDEL', LEASE_DATA, unpack(dead))
end
if max_concurrent > 0 and call('ZCOUNT', LEASES, '(' .. now, '+inf') >= max_concurrent then
  local first = call('ZRANGEBYSCORE', LEASES, '(' .. now, '+inf', 'WITHSCORES', 'LIMIT', 0, 1)
  needs('concurrency', min(SLOT_HINT, (whole(first[2]) or now + 1) - now))
end

-- One bucket more than the window is long is counted, the oldest in full: never above the limit in any window.
local oldest, requests, tokens = whole(win[1]), tonumber(win[2] or nil) or 0, tonumber(win[3] or nil) or 0
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
local function until_free(prefix, total, cost, limit)
  local names = {}
  for i = oldest, bucket do names[#names + 1] = prefix .. i end
  for i, count in ipairs(call('HMGET', WIN, unpack(names))) do
    total = total - (tonumber(count or nil) or 0)
    if total + cost <= limit then return (oldest + i - 1 + BUCKETS + 1) * BUCKET - now end
  end
  return WINDOW
end
if rpm > 0 and requests + 1 > rpm then needs('rpm', until_free('r', requests, 1, rpm)) end
if tpm > 0 and estimate > 0 then
  if estimate > tpm then return refused('too_large', -1) end
  if tokens + estimate > tpm then needs('tpm', until_free('t', tokens, estimate, tpm)) end
end

-- The pace (GCRA): the time at which the next call would be due, were all of them evenly spread.
local due = whole(win[4]) or 0
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
call('HSET', WIN, 'hw', now, 'oldest', oldest, 'requests', requests + 1, 'tokens', tokens + estimate,
  'tat', max(due, now) + pace,
  'r' .. bucket, (tonumber(win[6] or nil) or 0) + 1, 't' .. bucket, (tonumber(win[7] or nil) or 0) + estimate)
call('ZADD', LEASES, expires, id)
call('HSET', LEASE_DATA, id, epoch .. ':' .. probe .. ':' .. bucket .. ':' .. estimate)
return granted(epoch, probe, expires)
