-- Prelude of the gate's scripts, without replica_presence.lua: keys, clock, breaker.
-- KEYS  of the breaker (1-5 are a contract with the web API and with redis-cli)
--       1 state  2 failures  3 successes  4 opened_at  5 attempts  6 meta  7 probes
--       of the provider
--       8 win  9 leases  10 lease_data
-- ARGV  1 lease ttl ms, and behind a space how long a breaker stays open after a failed probe, ms, where other deployments
--         take the calls; the others differ
local STATE, FAILURES, SUCCESSES, OPENED_AT, ATTEMPTS = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local META, PROBES, WIN, LEASES, LEASE_DATA = KEYS[6], KEYS[7], KEYS[8], KEYS[9], KEYS[10]
local lease, reopening = string.match(ARGV[1], '^(%d+) ?(%d*)$')
local lease_ttl, reopen_for = tonumber(lease), tonumber(reopening)
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

-- The open time doubles with each opening in a row, up to this. A longer configured time stays as it is.
local LONGEST_OPEN = 600000
-- After a recovery the concurrency limit comes back in two steps: a quarter of it, then half of it, each for this long.
local RAMP_STEP = 15000

-- Parses a whole number from a key that other programs can write; nil for anything else.
local function whole(text)
  local n = tonumber(text or nil)
  if n and n >= 0 and n < 1e15 then return floor(n) end
end

-- Redis's clock decides. A script that stores a time in a key of the breaker also stores it in META.hw, for a key of
-- the provider in WIN.hw. After a small step back of the clock (NTP, a failover) the scripts reuse the stored time
-- until the clock has caught up. After a big step they draw times that lie too far ahead back to the new clock.
local time = call('TIME')
local now = tonumber(time[1]) * 1000 + floor(tonumber(time[2]) / 1000)
local meta = call('HMGET', META, 'epoch', 'seen', 'hw', 'opens', 'ramp', 'fault', 'calls')
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

-- Reads the breaker from its keys. A state other than the one that these scripts last wrote has another origin: a
-- reset, redis-cli, an eviction. The script adopts it under a new epoch, so the outcomes of calls in flight are stale.
local stored = call('MGET', STATE, OPENED_AT, SUCCESSES)
local state = stored[1]
if state ~= 'OPEN' and state ~= 'HALF_OPEN' then state = 'CLOSED' end
local opened_at, successes = whole(stored[2]), whole(stored[3]) or 0
local epoch = whole(meta[1]) or 0

-- The breaker's memory beyond its state:
--   opens  openings in a row, and the epoch of the last one: `<n>:<epoch>`
--   ramp   the epoch in which the breaker was closed by probes: the limit comes back in steps from then on
--   fault  the account's fault, when the last counted call failed for one: `<when ms>:<word>`
--   calls  how the last ten counted calls of the epoch ended, `S` or `F` each: `<epoch>:<ends>`
-- Replicas of an earlier version know none of it: what belongs to an epoch names the epoch.
local opens, opens_epoch = string.match(meta[4] or '', '^(%d+):(%d+)$')
opens, opens_epoch = tonumber(opens) or 0, tonumber(opens_epoch) or 0
local ramp_epoch = whole(meta[5]) or 0
local fault = string.match(meta[6] or '', '^%d+:(%l+)$')
local calls_epoch, calls = string.match(meta[7] or '', '^(%d+):([SF]+)$')
if not calls or tonumber(calls_epoch) ~= epoch then calls = '' end
local calls_changed = false

-- How long the last opening of a row lasts, and how long the breaker stays open now: an opening by hand, or by another
-- program, takes the usual time.
local function last_open_time(open_for)
  if reopen_for and opens > 1 then return min(open_for, reopen_for) end
  return max(open_for, min(LONGEST_OPEN, open_for * 2 ^ min(max(opens - 1, 0), 20)))
end
local function open_time(open_for) return opens_epoch == epoch and last_open_time(open_for) or open_for end

local function note_fault(word)
  if not word and not fault then return end
  fault = word
  if word then
    call('HSET', META, 'fault', string.format('%.0f', now) .. ':' .. word, 'hw', now)
  else
    call('HDEL', META, 'fault')
  end
end

-- An epoch is never used twice, not even after the data was lost. `left`: since when the breaker is not closed.
local known = meta[2] or 'CLOSED'
local function new_epoch(seen)
  if seen ~= 'CLOSED' and known == 'CLOSED' then call('HSET', META, 'left', now) end
  known = seen
  epoch = max(epoch + 1, now)
  call('HSET', META, 'epoch', epoch, 'seen', seen, 'hw', now)
  calls, calls_changed = '', false
  call('HDEL', META, 'ring', 'calls')
  call('DEL', PROBES)
end
-- A state that another program has set starts over: openings before it do not count.
local function forget_openings()
  opens, opens_epoch, ramp_epoch, fault = 0, 0, 0, nil
  call('HDEL', META, 'opens', 'ramp', 'fault')
end
if meta[2] ~= state or epoch == 0 then
  new_epoch(state)
  if opens > 0 or ramp_epoch > 0 or fault then forget_openings() end
end

-- How many calls may be in flight: all that are allowed (0 no limit), but for the time after a recovery, when the
-- backlog must not knock the provider over. An epoch is the time at which its state was entered.
local function ramped(limit)
  -- Where other deployments take the calls of an outage, no backlog waits behind it.
  if reopen_for then return limit end
  local since = now - epoch
  if limit == 0 or state ~= 'CLOSED' or ramp_epoch ~= epoch or since <= -RAMP_STEP or since >= 2 * RAMP_STEP then
    return limit
  end
  return max(1, floor(limit * (since < RAMP_STEP and 0.25 or 0.5)))
end

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
