-- Counts a job that was given the result of an equal one, once.
-- KEYS 1 hash of the job
-- ARGV 1 to 4 as in books.lua  5 what the names of this worker's fields in the hash begin with  6 job type
--      7 saved billionths of a dollar
-- Returns 1, or 0 where the job was counted before, or is gone.
if call('EXISTS', KEYS[1]) == 0 or call('HSETNX', KEYS[1], ARGV[5] .. 'reused', '1') == 0 then return 0 end
local has_waited = call('HEXISTS', KEYS[1], ARGV[5] .. 'awaited') == 1
read_clock()
local day_key, month_key = 'spend:day:' .. today, 'spend:month:' .. string.sub(today, 1, 7)
local function add_up(name, amount)
  add(day_key, ARGV[6] .. '|' .. name, amount, DAYS)
  add(day_key, name, amount, DAYS)
  add(month_key, name, amount, MONTHS)
end
add_up('reused', 1)
if has_waited then add_up('awaited', 1) end
add_up('saved', tonumber(ARGV[7]) or 0)
return 1
