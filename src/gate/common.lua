-- Prelude of every script of the gate, put in front of it so that each is still one EVALSHA: keys, clock, breaker.
-- KEYS  of the breaker (1-5 are a contract with the web API and with redis-cli)
--       1 state  2 failures  3 successes  4 opened_at  5 attempts  6 meta  7 probes
--       of the provider
--       8 win  9 leases  10 lease_data
-- ARGV  1 lease ttl ms; the others differ
local STATE, FAILURES, SUCCESSES, OPENED_AT, ATTEMPTS = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local META, PROBES, WIN, LEASES, LEASE_DATA = KEYS[6], KEYS[7], KEYS[8], KEYS[9], KEYS[10]
local lease_ttl = tonumber(ARGV[1])
local call = redis.call
local floor, max, min = math.floor, math.max, math.min
local unpack = table.unpack or unpack -- Lua 5.4 (Dragonfly) or 5.1 (Redis, Valkey)

-- Rates are counted in buckets of 5 s, and within each in slices of 500 ms. Replicas before slices read and write the
-- buckets only. A request leaves the window GRACE later than a minute after its slice: calls do not take equally long to
-- reach the provider. So one bucket more than a minute is counted beside the current one.
local WINDOW, BUCKETS = 60000, 13
local BUCKET, SLICE, GRACE = 5000, 500, 200
-- A clock that steps back further than this is believed.
local BIG_STEP = 60000

-- A whole number that anybody may have written; nil for anything else.
local function whole(text)
  local n = tonumber(text or nil)
  if n and n >= 0 and n < 1e15 then return floor(n) end
end

-- The clock is Redis's. Whoever stores a time in a key of the breaker notes it in META.hw, in a key of the provider
-- in WIN.hw. When the clock steps back a little (NTP, a failover), time stands still until it has caught up; after
-- a big step what lies too far ahead is drawn back to the new clock.
local time = call('TIME')
local now = tonumber(time[1]) * 1000 + floor(tonumber(time[2]) / 1000)
local meta = call('HMGET', META, 'epoch', 'seen', 'hw')
local breaker_mark, limits_mark = whole(meta[3]) or 0, whole(call('HGET', WIN, 'hw')) or 0
local ahead = { breaker = breaker_mark - now > BIG_STEP, limits = limits_mark - now > BIG_STEP }
if not ahead.breaker then now = max(now, breaker_mark) end
if not ahead.limits then now = max(now, limits_mark) end

local function draw_back(zset)
  for _, id in ipairs(call('ZRANGEBYSCORE', zset, '(' .. (now + lease_ttl), '+inf')) do
    call('ZADD', zset, now + lease_ttl, id)
  end
end
if ahead.breaker then
  draw_back(PROBES)
  call('HSET', META, 'hw', now)
end
if ahead.limits then
  draw_back(LEASES)
  call('DEL', WIN)
end

-- The breaker as its keys have it. A state that is not the one we last wrote means that somebody else moved it (a
-- reset, redis-cli, an eviction): it is adopted under a new epoch, so the outcomes of calls in flight are stale.
local stored = call('MGET', STATE, OPENED_AT, SUCCESSES)
local state = stored[1]
if state ~= 'OPEN' and state ~= 'HALF_OPEN' then state = 'CLOSED' end
local opened_at, successes = whole(stored[2]), whole(stored[3]) or 0
local epoch = whole(meta[1]) or 0

-- An epoch is never used twice, not even after the data was lost. `left`: since when the breaker is not closed.
local known = meta[2] or 'CLOSED'
local function new_epoch(seen)
  if seen ~= 'CLOSED' and known == 'CLOSED' then call('HSET', META, 'left', now) end
  known = seen
  epoch = max(epoch + 1, now)
  call('HSET', META, 'epoch', epoch, 'seen', seen, 'hw', now)
  call('HDEL', META, 'ring')
  call('DEL', PROBES)
end
if meta[2] ~= state or epoch == 0 then new_epoch(state) end

-- Moves the breaker to a state.
local function enter(new)
  new_epoch(new)
  state, successes = new, 0
  call('SET', STATE, new)
  call('DEL', SUCCESSES)
  if new == 'OPEN' then
    opened_at = now
    call('SET', OPENED_AT, now)
    call('DEL', ATTEMPTS)
  elseif new == 'HALF_OPEN' then
    call('DEL', FAILURES)
    call('SET', ATTEMPTS, 0)
  else
    opened_at = nil
    call('DEL', FAILURES, OPENED_AT, ATTEMPTS)
  end
end
