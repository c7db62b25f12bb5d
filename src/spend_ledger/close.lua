-- Closes paid calls: stores their answers, and books each call exactly once. Also ends the reservations of replicas that
-- have gone silent.
-- KEYS  1… the page of each call's job
-- ARGV  1 to 4 as in books.lua  5 time to live of a page, ms  6 entries of the stream `usage`, about
--       7 what else to do: '' nothing, 'alive' mark the replica as alive and look for silent ones, 'idle' the same for a
--          replica of which no call is in flight and none waits to be booked
--       8 number of the first call to book; the others have the numbers behind it
--       9… of each page: entry, note field, new content, note, job type
--          note field: '$' and what the mark of this sending has behind its '?'
--          new content: '=…' an answer (the script checks no token: any delivery's answer belongs to the same request),
--          '?' the mark stays, '' the mark is taken back, unless another call has overwritten it since
--          note: kind, amount, step and service of the booking, shown on the job's page ('' none)
--       then of each call to book: id of the call, kind of the booking, amount, student, row, tokens of the request, of the
--          cache, of the answer, of reasoning
--       A replica sends one of these scripts at a time, so a number that was booked before is a resend.
--       The kinds of bookings:
--          paid      the answer came, and has a price
--          unpriced  the answer came, and its model has no price
--          possible  the answer was lost: the provider may have billed it, at most the amount that was reserved
--          nothing   it was not billed
-- Returns {for each page 1, or nil where the page has another type; the last number that is booked}
-- The mark of a sending.
local function mark_of(note_field) return '?' .. string.sub(note_field, 2) end

read_clock()
local kept, job_types, jobs = {}, {}, {}
for i, page in ipairs(KEYS) do
  local entry, note_field, answer, note, job_type = unpack(ARGV, 4 + 5 * i, 8 + 5 * i)
  if answer == '?' then
    kept[i] = redis.pcall('HGET', page, entry) == mark_of(note_field) and 1
    if kept[i] and note ~= '' then call('HSET', page, note_field, note) end
  elseif answer ~= '' then
    local written
    if note == '' then
      written = redis.pcall('HSET', page, entry, answer)
    else
      written = redis.pcall('HSET', page, entry, answer, note_field, note)
    end
    kept[i] = type(written) == 'number' and call('PEXPIRE', page, ARGV[5])
    -- Jobs that have paid for their first answer are counted by type.
    if kept[i] and note ~= '' and call('HSETNX', page, 'paid', '1') == 1 then
      if not jobs[job_type] then
        job_types[#job_types + 1], jobs[job_type] = job_type, 0
      end
      jobs[job_type] = jobs[job_type] + 1
    end
  else
    kept[i] = 1
    if redis.pcall('HGET', page, entry) == mark_of(note_field) then
      -- Before the mark goes: a hash without fields loses its time to live.
      if note ~= '' then call('HSET', page, note_field, note) end
      call('HDEL', page, entry)
      -- Deletes a page that holds nothing but `by`, which replicas of earlier versions write.
      if call('HLEN', page) == 1 and call('HEXISTS', page, 'by') == 1 then call('DEL', page) end
    end
  end
end

-- Rows of a day, and students of a day or month: what goes beyond shares one row. Names come from outside.
local MOST_ROWS, MOST_STUDENTS, OTHERS = 200, 200000, '(others)'
local month = string.sub(today, 1, 7)
local day_key, month_key = 'spend:day:' .. today, 'spend:month:' .. month

-- Counts calls of a row; the row that they are counted in.
local function count(row, name, calls)
  if add(day_key, row .. '|' .. name, calls, DAYS) and call('HINCRBY', day_key, 'rows', 1) > MOST_ROWS then
    call('HDEL', day_key, row .. '|' .. name)
    row = string.gsub(row, '|.*|', '|' .. OTHERS .. '|')
    add(day_key, row .. '|' .. name, calls, DAYS)
  end
  return row
end

-- The sums of students: of the day, of the month.
local STUDENTS_DAY, STUDENTS_MONTH = 'spend:students:' .. today, 'spend:students:' .. month

-- Adds to a student's sums. `kind` is `p:` or `l:`, `text` the amount as text.
local function add_student(kind, student, amount, text)
  if student == '' or amount == 0 then return end
  local field = kind .. student
  if add(STUDENTS_DAY, field, amount, DAYS, text) and call('HLEN', STUDENTS_DAY) > MOST_STUDENTS then
    call('HDEL', STUDENTS_DAY, field)
    add(STUDENTS_DAY, kind .. OTHERS, amount, DAYS)
  end
  if add(STUDENTS_MONTH, field, amount, MONTHS, text) and call('HLEN', STUDENTS_MONTH) > MOST_STUDENTS then
    call('HDEL', STUDENTS_MONTH, field)
    add(STUDENTS_MONTH, kind .. OTHERS, amount, MONTHS)
  end
end

-- Provider, model and type of a row.
local function parts(row)
  local first = string.find(row, '|', 1, true) or 0
  local second = string.find(row, '|', first + 1, true) or 0
  return string.sub(row, 1, first - 1), string.sub(row, first + 1, second - 1), string.sub(row, second + 1)
end

-- Tells who follows the stream `usage` of a call. Its id is the same in each entry about the call: a call that was possibly
-- paid can turn out to be paid, or not billed. Calls of one script often share their row: `told_row` is that of the last one.
local told_row, provider, model, type_of_job
local function tell(id, kind, amount, row, student, prompt, cached, completion, reasoning)
  if row ~= told_row then
    provider, model, type_of_job = parts(row)
    told_row = row
  end
  call(
    'XADD',
    'usage',
    '*',
    'call',
    id,
    'kind',
    kind,
    'provider',
    provider,
    'model',
    model,
    'type',
    type_of_job,
    'student',
    student,
    'nanoUsd',
    amount,
    'promptTokens',
    prompt or '0',
    'cachedTokens',
    cached or '0',
    'completionTokens',
    completion or '0',
    'reasoningTokens',
    reasoning or '0'
  )
end

-- Subtracts from a field, and deletes it when nothing is left; says whether it did.
local function take(key, field, amount)
  return amount > 0 and call('HINCRBY', key, field, digits(-amount)) <= 0 and call('HDEL', key, field) == 1
end

-- Amount, student and rest of a reservation.
local function read(record)
  local amount, length, rest = string.match(record, '^(%d+) s?(%d+) (.*)$')
  if amount then return tonumber(amount), string.sub(rest, 1, length), string.sub(rest, length + 1) end
end

-- Ends the reservations of these calls, but for their part of the total. Returns their records (false: none), and that part.
local function release(open, ids)
  if not ids[1] then return {}, 0 end
  local records, total = call('HMGET', open, unpack(ids)), 0
  call('HDEL', open, unpack(ids))
  for _, record in ipairs(records) do
    if record then
      local amount, is_for_student = string.match(record, '^(%d+) (s?)')
      amount = tonumber(amount) or 0
      total = total + amount
      if is_for_student == 's' then
        local _, student = read(record)
        if student then take(RESERVED, 's:' .. student, amount) end
      end
    end
  end
  return records, total
end

-- Books the highest possible cost of a call; the row that it is counted in.
local function book_possible(id, amount, row, student)
  local counted = count(row, 'lost', 1)
  if amount > 0 then
    add(day_key, counted .. '|possible', amount, DAYS)
    add(day_key, 'possible', amount, DAYS)
    add(month_key, 'possible', amount, MONTHS)
    add_student('l:', student, amount)
  end
  tell(id, 'possible', digits(amount), row, student)
  return counted
end

-- Takes back what a sweep has booked of a call: its replica is there after all. Returns the student and the row then.
local function take_back(id)
  local lost = 'spend:lost:' .. replica
  local record = call('HGET', lost, id)
  local amount, student, rest = read(record or '')
  if not amount then return end
  call('HDEL', lost, id)
  local day, row = string.sub(rest, 1, 10), string.sub(rest, 11)
  local key, of_month = 'spend:day:' .. day, string.sub(day, 1, 7)
  take(key, row .. '|possible', amount)
  if take(key, row .. '|lost', 1) then take(key, 'rows', 1) end
  take(key, 'possible', amount)
  take('spend:month:' .. of_month, 'possible', amount)
  if student ~= '' then
    take('spend:students:' .. day, 'l:' .. student, amount)
    take('spend:students:' .. of_month, 'l:' .. student, amount)
  end
  return student, row
end

-- Calls of one script often share their row: each sum is added to once. A sum of one call stays the text that it came as.
local function plus(sum, amount)
  if amount == '0' then return sum end
  return sum and sum + amount or amount
end
local function in_digits(sum) return type(sum) == 'number' and digits(sum) or sum end

local BOOKED, BOOKED_FOR = 'spend:booked:' .. replica, '172800'
local first = 9 + 5 * #KEYS
local number, last = tonumber(ARGV[8]), #ARGV
local booked = first <= last and whole(call('GET', BOOKED)) or 0
local before, paid, rows, ids = booked, 0, {}, {}
-- Skips what is booked.
if first <= last and booked >= number then
  first = first + 9 * (booked - number + 1)
  number = booked + 1
end
for at = first, last, 9 do
  ids[#ids + 1] = ARGV[at]
end
local records, released = release(OPEN, ids)
for nth, id in ipairs(ids) do
  local at = first + 9 * nth - 9
  local kind, amount, student, row, prompt, cached, completion, reasoning = unpack(ARGV, at + 1, at + 8)
  local lost_student, lost_row
  if not records[nth] then
    lost_student, lost_row = take_back(id)
  end
  local name = replica .. ':' .. id
  if kind == 'nothing' then
    -- An event told of a possible cost: this one takes it back.
    if lost_row then tell(name, kind, '0', lost_row, lost_student) end
  elseif kind == 'possible' then
    book_possible(name, tonumber(amount), row, student)
  else
    local cost, sums = tonumber(amount), rows[row]
    if not sums then
      sums = { 0 }
      rows[row] = sums
    end
    sums[1], sums[2] = sums[1] + 1, plus(sums[2], amount)
    sums[3], sums[4] = plus(sums[3], prompt), plus(sums[4], completion)
    sums[5] = plus(sums[5], kind == 'unpriced' and '1' or '0')
    sums[6], sums[7] = plus(sums[6], cached), plus(sums[7], reasoning)
    paid = paid + cost
    add_student('p:', student, cost, amount)
    tell(name, kind, amount, row, student, prompt, cached, completion, reasoning)
  end
end
if ids[1] then
  booked = number + #ids - 1
  call('XTRIM', 'usage', 'MAXLEN', '~', ARGV[6])
end
for row, sums in pairs(rows) do
  local stem = count(row, 'calls', sums[1]) .. '|'
  if sums[2] then call('HINCRBY', day_key, stem .. 'usd', in_digits(sums[2])) end
  if sums[3] then call('HINCRBY', day_key, stem .. 'in', in_digits(sums[3])) end
  if sums[4] then call('HINCRBY', day_key, stem .. 'out', in_digits(sums[4])) end
  if sums[5] then call('HINCRBY', day_key, stem .. 'unpriced', in_digits(sums[5])) end
  if sums[6] then call('HINCRBY', day_key, stem .. 'cached', in_digits(sums[6])) end
  if sums[7] then call('HINCRBY', day_key, stem .. 'reasoning', in_digits(sums[7])) end
end
for _, job_type in ipairs(job_types) do
  add(day_key, job_type .. '|jobs', jobs[job_type], DAYS)
end
if paid > 0 then
  local text = digits(paid)
  add(day_key, 'total', paid, DAYS, text)
  add(month_key, 'total', paid, MONTHS, text)
end
-- Setting the time to live costs as much as writing the number: it is set when the replica tells that it
-- is alive, several times a minute.
if booked > before then
  if before == 0 or ARGV[7] ~= '' then
    call('SET', BOOKED, digits(booked), 'EX', BOOKED_FOR)
  else
    call('SET', BOOKED, digits(booked), 'KEEPTTL')
  end
elseif ARGV[7] == 'alive' then
  call('EXPIRE', BOOKED, BOOKED_FOR)
end

if ARGV[7] == 'idle' then
  -- All calls of this replica are booked. A reservation that is still open came from a script that Redis ran late.
  local _, late = release(OPEN, call('HKEYS', OPEN))
  released = released + late
  call('ZREM', REPLICAS, replica)
elseif ARGV[7] == 'alive' then
  announce()
end
if ARGV[7] ~= '' then
  -- Books the calls that silent replicas have left open as possibly paid. Such a replica may come back and say what became
  -- of them: they are remembered for a day. A script books so many at most: it blocks Redis for everyone.
  local left = 200
  for _, name in ipairs(call('ZRANGEBYSCORE', REPLICAS, '-inf', now, 'LIMIT', 0, 2)) do
    local open, lost = 'spend:open:' .. name, 'spend:lost:' .. name
    local open_ids, some = call('HKEYS', open), {}
    for i = 1, math.min(#open_ids, left) do
      some[i] = open_ids[i]
    end
    local found, total = release(open, some)
    released = released + total
    for i, record in ipairs(found) do
      local amount, student, row = read(record or '')
      if amount then
        row = book_possible(name .. ':' .. open_ids[i], amount, row, student)
        call('HSET', lost, open_ids[i], amount .. ' ' .. #student .. ' ' .. student .. today .. row)
      end
    end
    if #open_ids > 0 then call('EXPIRE', lost, 86400) end
    if #open_ids <= left then call('ZREM', REPLICAS, name) end
    left = math.max(left - #open_ids, 0)
  end
end
take(RESERVED, 'total', released)
return { kept, string.format('%.0f', booked) }
