-- Prelude of the scripts that open and close paid calls: reservations, and the sums of what was spent.
-- ARGV  1 the replica, which no other one bears the name of  2 how long its reservations outlive its last word, ms
-- Amounts are whole billionths of a dollar, as text: Redis adds them exactly. `row` is `<provider>|<model>|<type>`.
-- The kinds of bookings:
--   paid      the answer came, and has a price
--   unpriced  the answer came, and its model has no price
--   possible  the answer was lost: the provider may have billed it, at most the amount that was reserved
--   nothing   it was not billed
local call, floor = redis.call, math.floor
local unpack = table.unpack or unpack -- Lua 5.4 (Dragonfly) or 5.1 (Redis, Valkey)
local replica, lease = ARGV[1], tonumber(ARGV[2])
local RESERVED, REPLICAS = 'spend:reserved', 'spend:replicas'
local OPEN = 'spend:open:' .. replica
-- How long sums stay, s: days, and months.
local DAYS, MONTHS = 100 * 86400, 400 * 86400
-- Rows of a day, and students of a day or month: what goes beyond shares one row. Names come from outside.
local MOST_ROWS, MOST_STUDENTS, OTHERS = 200, 200000, '(others)'
-- Entries of the stream of events, about.
local events = '10000'
-- Reservations of a dead replica that one script books at most: it blocks Redis for everyone.
local SWEEP = 200

local time = call('TIME')
local seconds = tonumber(time[1])
local now = seconds * 1000 + floor(tonumber(time[2]) / 1000)

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
local today = date(seconds)

local function whole(text)
  local n = tonumber(text or nil)
  return n and n == n and n or 0
end

-- Adds to a field of a hash that expires; says whether the field is new.
local function add(key, field, amount, ttl)
  if amount == '0' then return false end
  local sum = call('HINCRBY', key, field, amount)
  local is_new = sum == tonumber(amount)
  if is_new then call('EXPIRE', key, ttl) end
  return is_new
end

local function add_student(key, kind, student, amount, ttl)
  if student == '' or amount == '0' then return end
  if add(key, kind .. student, amount, ttl) and call('HLEN', key) > MOST_STUDENTS then
    call('HDEL', key, kind .. student)
    add(key, kind .. OTHERS, amount, ttl)
  end
end

-- Counts a call of a row; the row that it is counted in.
local function count(day_key, row, name)
  if add(day_key, row .. '|' .. name, '1', DAYS) and call('HINCRBY', day_key, 'rows', 1) > MOST_ROWS then
    call('HDEL', day_key, row .. '|' .. name)
    row = string.gsub(row, '|.*|', '|' .. OTHERS .. '|')
    add(day_key, row .. '|' .. name, '1', DAYS)
  end
  return row
end

-- Tells who follows the stream `usage` of a call. Its id is the same in each entry about the call: a call that was possibly
-- paid can turn out to be paid.
local function tell(id, kind, amount, row, student, counts)
  local provider, model, job_type = string.match(row, '^(.-)|(.-)|(.*)$')
  local n = counts or {}
  call('XADD', 'usage', 'MAXLEN', '~', events, '*', 'call', id, 'kind', kind, 'provider', provider, 'model', model,
    'type', job_type, 'student', student, 'nanoUsd', amount, 'promptTokens', n['in'] or '0', 'cachedTokens',
    n.cached or '0', 'completionTokens', n.out or '0', 'reasoningTokens', n.reasoning or '0')
end

-- Adds a call to the sums of today; the row that it is counted in. `id` is unique over all replicas.
local function book(id, kind, amount, row, student, counts)
  local day_key, month_key = 'spend:day:' .. today, 'spend:month:' .. string.sub(today, 1, 7)
  local student_kind = 'p:'
  if kind == 'possible' then
    row = count(day_key, row, 'lost')
    add(day_key, row .. '|possible', amount, DAYS)
    add(day_key, 'possible', amount, DAYS)
    add(month_key, 'possible', amount, MONTHS)
    student_kind = 'l:'
  else
    row = count(day_key, row, 'calls')
    if kind == 'unpriced' then add(day_key, row .. '|unpriced', '1', DAYS) end
    add(day_key, row .. '|usd', amount, DAYS)
    add(day_key, 'total', amount, DAYS)
    add(month_key, 'total', amount, MONTHS)
    for name, n in pairs(counts or {}) do add(day_key, row .. '|' .. name, n, DAYS) end
  end
  add_student('spend:students:' .. today, student_kind, student, amount, DAYS)
  add_student('spend:students:' .. string.sub(today, 1, 7), student_kind, student, amount, MONTHS)
  tell(id, kind, amount, row, student, counts)
  return row
end

-- Subtracts from a field, and deletes it when nothing is left; says whether it did.
local function take(key, field, amount)
  if amount ~= '0' and call('HINCRBY', key, field, '-' .. amount) <= 0 then return call('HDEL', key, field) == 1 end
end

-- `<amount> <length of the student's name> <student><rest>`: amount, student, rest.
local function read(record)
  local amount, length, rest = string.match(record or '', '^(%d+) (%d+) (.*)$')
  if amount then return amount, string.sub(rest, 1, tonumber(length)), string.sub(rest, tonumber(length) + 1) end
end

local function reserve(id, amount, student, row)
  call('HSET', OPEN, id, amount .. ' ' .. #student .. ' ' .. student .. row)
  if amount == '0' then return end
  call('HINCRBY', RESERVED, 'total', amount)
  if student ~= '' then call('HINCRBY', RESERVED, 's:' .. student, amount) end
end

-- Ends a reservation: what it was of, or nil where there is none.
local function release(open, id)
  local amount, student, row = read(call('HGET', open, id))
  if not amount then return end
  call('HDEL', open, id)
  take(RESERVED, 'total', amount)
  if student ~= '' then take(RESERVED, 's:' .. student, amount) end
  return amount, student, row
end

-- Books the calls that a replica has left open as possibly paid. It may come back and say what became of them: that is
-- remembered for a day. Says whether all of them are booked.
local function sweep(name)
  local open, lost = 'spend:open:' .. name, 'spend:lost:' .. name
  local ids = call('HKEYS', open)
  for i = 1, math.min(#ids, SWEEP) do
    local amount, student, row = release(open, ids[i])
    if amount then
      row = book(name .. ':' .. ids[i], 'possible', amount, row, student)
      call('HSET', lost, ids[i], amount .. ' ' .. #student .. ' ' .. student .. today .. row)
    else
      call('HDEL', open, ids[i])
    end
  end
  if #ids > 0 then call('EXPIRE', lost, 86400) end
  return #ids <= SWEEP
end

-- Takes back what a sweep has booked of a call: its replica is there after all. Returns the student and the row then.
local function take_back(id)
  local lost = 'spend:lost:' .. replica
  local amount, student, rest = read(call('HGET', lost, id))
  if not amount then return end
  call('HDEL', lost, id)
  local day, row = string.sub(rest, 1, 10), string.sub(rest, 11)
  local day_key, month = 'spend:day:' .. day, string.sub(day, 1, 7)
  take(day_key, row .. '|possible', amount)
  if take(day_key, row .. '|lost', '1') then take(day_key, 'rows', '1') end
  take(day_key, 'possible', amount)
  take('spend:month:' .. month, 'possible', amount)
  if student ~= '' then
    take('spend:students:' .. day, 'l:' .. student, amount)
    take('spend:students:' .. month, 'l:' .. student, amount)
  end
  return student, row
end
