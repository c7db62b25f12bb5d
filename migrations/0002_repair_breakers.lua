-- Repairs what a worker that moved breakers without scripts leaves behind when it dies between two commands.
-- KEYS  after the lock, six keys a breaker: state, failures, successes, opened_at, attempts, meta
-- ARGV  after the cursor: 4 how long a failure counts, ms
-- What our own gate has written is left alone: its HALF_OPEN ends by itself.
local window = tonumber(ARGV[4])
local changed, notes = 0, {}

local function change(note, ...)
  changed = changed + 1
  notes[#notes + 1] = note
  if not dry then redis.call(...) end
end

-- A time that is past; nil for anything else.
local function past(text)
  local at = tonumber(text or nil)
  if at and at >= 0 and at <= now then return at end
end

local function is_foreign(keys)
  for i = 1, 6 do
    local kind = redis.call('TYPE', keys[i]).ok
    if kind ~= 'none' and kind ~= (i == 6 and 'hash' or 'string') then return true end
  end
  return false
end

for first = 2, #KEYS, 6 do
  local keys = {}
  for i = 1, 6 do keys[i] = KEYS[first + i - 1] end
  local name = string.match(keys[1], '^circuit:(.*):state$')
  if is_foreign(keys) then
    notes[#notes + 1] = name .. ': left alone, a key of it is of another type'
  else
    local state, opened_at = redis.call('GET', keys[1]), redis.call('GET', keys[4])
    if redis.call('PTTL', keys[2]) == -1 then
      change(name .. ': its failures get an expiry', 'PEXPIRE', keys[2], window)
    end
    if state == 'HALF_OPEN' and redis.call('HGET', keys[6], 'seen') ~= 'HALF_OPEN' then
      -- Its probes are nobody's any more. OPEN since long ago, it lets the next call be one.
      change(name .. ': HALF_OPEN becomes OPEN, and the next call a probe', 'SET', keys[1], 'OPEN')
      if not dry then redis.call('DEL', keys[3], keys[5]) end
      state = 'OPEN'
    end
    if state == 'OPEN' and not past(opened_at) then
      change(name .. ': OPEN since now, which it did not say', 'SET', keys[4], now)
    end
  end
end
return { '0', changed, notes }
