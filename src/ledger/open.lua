-- Marks paid calls as sent before they are sent, and reserves the most that they may cost, unless their answer is known or
-- the budget is used up. Each call sees the reservations of those before it.
-- KEYS  1… the page of each call's job, or '-' with the ledger switched off
-- ARGV  1 and 2 as in books.lua  3 time to live of a page, ms
--       budgets ('' none): 4 of a day  5 of a month  6 of a student and month
--       7… of each call: entry, mark of this sending, id of the call, amount ('?': its price is not known, and no budget may
--          be spent on it), student, row
-- Returns for each the previous entry: '' none (or this very mark: a resend), '?…' the mark of a call without a stored
-- answer, '=…' a stored answer, which stays; nil where the page has another type; or a refusal, after which nothing is
-- marked or reserved: '!<reason> <ms until it ends> <spent> <budget>', reason: switch | day | month | student | unpriced
local month = string.sub(today, 1, 7)
local switch, limit = unpack(call('MGET', 'system:budget_kill_switch', 'system:monthly_budget_limit'))
local is_off = switch and string.lower(switch) == 'true'
local of_day, of_month = tonumber(ARGV[4]), tonumber(ARGV[5])
-- The limit that an operator has set overrides the configuration of the replicas.
local set = tonumber(limit or nil)
if set and set >= 0 and set < 1e6 then of_month = set * 1e9 end

-- The sums that were spent, and the reservations of calls in flight.
local spent_today, spent_month, reserved
if of_day or of_month then
  local sums = call('HMGET', 'spend:day:' .. today, 'total', 'possible')
  spent_today = whole(sums[1]) + whole(sums[2])
  sums = call('HMGET', 'spend:month:' .. month, 'total', 'possible')
  spent_month = whole(sums[1]) + whole(sums[2])
  reserved = whole(call('HGET', RESERVED, 'total'))
end

local function refusal(why, ends, spent, budget)
  return string.format('!%s %.0f %.0f %.0f', why, ends, spent, budget)
end

local to_midnight = (86400 - seconds % 86400) * 1000
local function to_next_month()
  local at = seconds
  repeat at = at + 86400 until string.sub(date(at), 1, 7) ~= month
  return (at - at % 86400 - seconds) * 1000
end

-- The refusal of a call, or nil. `amount` is nil for a call without a known price.
local function refusal_of(amount, student)
  local own = student ~= '' and (tonumber(call('HGET', 'spend:allowances', student) or nil) or tonumber(ARGV[6])) or nil
  local function is_over(spent, budget) return budget and (spent >= budget or spent + amount > budget) end
  if is_off then return refusal('switch', 5000, 0, 0) end
  -- No budget can hold what has no price.
  if not amount and (of_day or of_month or own) then return refusal('unpriced', 5000, 0, 0) end
  amount = amount or 0
  if of_day and is_over(spent_today + reserved, of_day) then
    return refusal('day', to_midnight, spent_today + reserved, of_day)
  end
  if of_month and is_over(spent_month + reserved, of_month) then
    return refusal('month', to_next_month(), spent_month + reserved, of_month)
  end
  if not own then return end
  local sums = call('HMGET', 'spend:students:' .. month, 'p:' .. student, 'l:' .. student)
  local spent = whole(sums[1]) + whole(sums[2]) + whole(call('HGET', RESERVED, 's:' .. student))
  if is_over(spent, own) then return refusal('student', to_next_month(), spent, own) end
end

local answers, opened = {}, false
for i, page in ipairs(KEYS) do
  local at = 7 + 6 * (i - 1)
  local entry, mark, id, amount, student, row = unpack(ARGV, at, at + 5)
  local found = page == '-' and '' or redis.pcall('HGET', page, entry) or ''
  if type(found) ~= 'table' and found:sub(1, 1) == '=' then
    answers[i] = found
  else
    local refused = refusal_of(tonumber(amount), student)
    if amount == '?' then amount = '0' end
    if refused then
      answers[i] = refused
    else
      reserve(id, amount, student, row)
      opened = true
      if reserved then reserved = reserved + tonumber(amount) end
      if type(found) == 'table' then
        answers[i] = false
      elseif page == '-' then
        answers[i] = ''
      else
        -- `by` records that the delivery with the mark's token has begun to run: if it is lost, it counts towards poison
        -- (queue/poison.lua).
        call('HSET', page, entry, mark, 'by', mark:match('^%?(.*):%d+$') or '')
        call('PEXPIRE', page, ARGV[3])
        answers[i] = found == mark and '' or found
      end
    end
  end
end
if opened then call('ZADD', REPLICAS, now + lease, replica) end
return answers
