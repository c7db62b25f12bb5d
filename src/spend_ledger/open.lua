-- Marks paid calls as sent before they are sent, and reserves the most that they may cost, unless their answer is known or
-- the budget is used up. Each call sees the reservations of those before it.
-- KEYS  1 the permits of the gate that admits the calls (`lease_data`), or 'spend:no-page'
--       2… the page of each call's job, or 'spend:no-page' with the ledger switched off
-- ARGV  1 to 4 as in books.lua  5 time to live of a page, ms  6 is the replica to be marked as alive: 1
--       budgets ('' none): 7 of a day  8 of a month  9 of a student and month
--       10… of each call: entry, mark of this sending, id of the call, amount ('?': its price is not known, and no budget
--          may be spent on it), payer: what a reservation has behind the `s`, id of its permit ('' needs none). The permit is
--          asked for by the script before this one, in the same round trip
-- Returns for each the previous entry: '' none (or this very mark: a resend), '?…' the mark of a call without a stored
-- answer, '=…' a stored answer, which stays; nil where the page has another type; or a refusal, after which nothing is
-- marked or reserved: '-' there is no such permit, or '!<reason> <ms until it ends> <spent> <budget>', reason: switch | day |
-- month | student | unpriced
local switch, limit, allows =
  unpack(call('MGET', 'system:budget_kill_switch', 'system:monthly_budget_limit', 'spend:allows'))
local is_off = switch and string.lower(switch) == 'true'
local of_day, of_month, of_student = tonumber(ARGV[7]), tonumber(ARGV[8]), tonumber(ARGV[9])
-- The limit that an operator has set overrides the configuration of the replicas.
local set = tonumber(limit or nil)
if set and set >= 0 and set < 1e6 then of_month = set * 1e9 end

-- The sums that were spent, and the reservations of calls in flight.
local month, spent_today, spent_month, reserved
if is_off or of_day or of_month or of_student or allows then
  read_clock()
  month = string.sub(today, 1, 7)
end
if of_day or of_month then
  local sums = call('HMGET', 'spend:day:' .. today, 'total', 'possible')
  spent_today = whole(sums[1]) + whole(sums[2])
  sums = call('HMGET', 'spend:month:' .. month, 'total', 'possible')
  spent_month = whole(sums[1]) + whole(sums[2])
  reserved = whole(call('HGET', RESERVED, 'total'))
end

-- Made only where something can refuse a call.
local refusal_of
if is_off or of_day or of_month or of_student or allows then
  local function refusal(why, ends, spent, budget) return string.format('!%s %.0f %.0f %.0f', why, ends, spent, budget) end

  local function to_next_month()
    local at = seconds
    repeat
      at = at + 86400
    until string.sub(date(at), 1, 7) ~= month
    return (at - at % 86400 - seconds) * 1000
  end

  -- The refusal of a call, or nil. `amount` is nil for a call without a known price, `own` the student's allowance, if any.
  refusal_of = function(amount, student, own)
    local function is_over(spent, budget) return budget and (spent >= budget or spent + (amount or 0) > budget) end
    if is_off then return refusal('switch', 5000, 0, 0) end
    -- No budget can hold what has no price.
    if not amount and (of_day or of_month or own) then return refusal('unpriced', 5000, 0, 0) end
    if of_day and is_over(spent_today + reserved, of_day) then
      return refusal('day', (86400 - seconds % 86400) * 1000, spent_today + reserved, of_day)
    end
    if of_month and is_over(spent_month + reserved, of_month) then
      return refusal('month', to_next_month(), spent_month + reserved, of_month)
    end
    if not own then return end
    local sums = call('HMGET', 'spend:students:' .. month, 'p:' .. student, 'l:' .. student)
    local spent = whole(sums[1]) + whole(sums[2]) + whole(call('HGET', RESERVED, 's:' .. student))
    if is_over(spent, own) then return refusal('student', to_next_month(), spent, own) end
  end
end

-- The student that a payer names.
local function student_of(payer)
  local length, rest = string.match(payer, '^(%d+) (.*)$')
  return string.sub(rest or '', 1, length)
end

-- Returns true if the gate's script before this one has admitted the call.
local function is_admitted(permit) return permit == '' or redis.pcall('HEXISTS', KEYS[1], permit) == 1 end

local answers, opened, total = {}, {}, 0
for i = 1, #KEYS - 1 do
  local page = KEYS[i + 1]
  local entry, mark, id, amount, payer, permit = unpack(ARGV, 4 + 6 * i, 9 + 6 * i)
  local found = page == 'spend:no-page' and '' or redis.pcall('HGET', page, entry) or ''
  if not is_admitted(permit) then
    answers[i] = '-'
  elseif type(found) ~= 'table' and found:sub(1, 1) == '=' then
    answers[i] = found
  else
    local price, student, own = tonumber(amount), nil, nil
    if of_student or allows then
      student = student_of(payer)
      if student ~= '' then
        own = allows and tonumber(call('HGET', 'spend:allowances', student) or nil) or of_student
      end
    end
    local refused = (is_off or of_day or of_month or own) and refusal_of(price, student, own)
    if refused then
      answers[i] = refused
    else
      price = price or 0
      local for_student = own and price > 0
      if for_student then call('HINCRBY', RESERVED, 's:' .. student, amount) end
      opened[#opened + 1] = id
      opened[#opened + 1] = (price == 0 and '0' or amount) .. (for_student and ' s' or ' ') .. payer
      total = total + price
      if reserved then reserved = reserved + price end
      if type(found) == 'table' then
        answers[i] = false
      elseif page == 'spend:no-page' then
        answers[i] = ''
      else
        call('HSET', page, entry, mark)
        call('PEXPIRE', page, ARGV[5])
        answers[i] = found == mark and '' or found
      end
    end
  end
end
if opened[1] then
  call('HSET', OPEN, unpack(opened))
  if total > 0 then call('HINCRBY', RESERVED, 'total', string.format('%d', total)) end
end
-- Also where nothing was opened: the replica takes its next calls to be covered by this word.
if ARGV[6] == '1' then announce() end
return answers
