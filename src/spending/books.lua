-- Prelude of the scripts that open and close paid calls. It is run with every call: the less it does, the better.
-- ARGV  1 the replica, which no other one bears the name of  2 how long its reservations outlive its last word, ms
--       3 today and its number of days since 1970, as the replica knows them (`2026-11-30`, `20787`)  4 the number
-- Amounts are whole billionths of a dollar. `row` is `<provider>|<model>|<type>`.
-- A reservation is a field of `spend:open:<replica>`: `<amount> <s><length of the student's name> <student><row>`. The `s`
-- says that the amount is also reserved for the student.
local call, floor = redis.call, math.floor
local unpack = table.unpack or unpack -- Lua 5.4 (Dragonfly) or 5.1 (Redis, Valkey)
local replica, lease = ARGV[1], tonumber(ARGV[2])
local RESERVED, REPLICAS = 'spend:reserved', 'spend:replicas'
local OPEN = 'spend:open:' .. replica

-- The day of a time in s, as 2026-11-30: days from civil, in eras of 400 years.
local function date(at)
  local days = floor(at / 86400) + 719468
  local era = floor(days / 146097)
  local of_era = days - era * 146097
  local year = floor((of_era - floor(of_era / 1460) + floor(of_era / 36524) - floor(of_era / 146096)) / 365)
  local of_year = of_era - (365 * year + floor(year / 4) - floor(year / 100))
  local shifted = floor((5 * of_year + 2) / 153)
  local month = shifted < 10 and shifted + 3 or shifted - 9
  local day = of_year - floor((153 * shifted + 2) / 5) + 1
  return string.format('%04d-%02d-%02d', year + era * 400 + (month <= 2 and 1 or 0), month, day)
end
-- Redis's clock: `now` in ms, and the day. It is read where it decides: a call without a budget is opened at any time.
local seconds, now, today
local function read_clock()
  local time = call('TIME')
  seconds = tonumber(time[1])
  now = seconds * 1000 + floor(tonumber(time[2]) / 1000)
  -- A replica whose clock agrees saves the calculation.
  today = tonumber(ARGV[4]) == floor(seconds / 86400) and ARGV[3] or date(seconds)
end

local function whole(text)
  local n = tonumber(text or nil)
  return n and n == n and n or 0
end

-- Marks the replica as alive: its reservations hold.
local function announce()
  if not now then read_clock() end
  call('ZADD', REPLICAS, now + lease, replica)
end
