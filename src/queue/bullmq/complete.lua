-- Ends jobs well, and claims as many others into their slots.
-- KEYS 1 prefix
-- ARGV 1-10 as in claim_jobs.lua; 3 how many at most, 0 claims nothing and leaves the number alone
--      11 keep ms  12 keep count  13… of each job: id, claim token, result as JSON (empty: in its place), what it says of equal jobs (../equal_jobs.lua)
-- Returns {of each job 1 applied (now or before), 0 lost, or the error that kept it from being written; what `claim`
-- returns, the error that it ended with, or false where it was not to}. Where many jobs are in flight it does the first
-- ones only.
local want, keep_ms, keep_count, now, answers = tonumber(ARGV[3]), tonumber(ARGV[11]), tonumber(ARGV[12]), now_ms(), {}
-- Checks only the keys that every completion writes. The code that puts a job into a line checks the lines, and the
-- code that reports to a parent checks the parent's keys.
expect_active()
claims_next = want > 0
call('ZCARD', P .. 'completed')
if orders(P)[2] then expect_lines(P) end

-- Since Redis 7 an error is a table.
local function worded(problem) return type(problem) == 'table' and problem.err or problem end

local locks = {}
for i = 13, #ARGV, 4 do
  locks[#locks + 1] = P .. ARGV[i] .. ':lock'
end
local holders = call('MGET', unpack(locks))

local function complete(id, token, result, equal, holder)
  local m = call('HMGET', P .. id, unpack(ENDING))
  local held = standing(id, token, m, holder)
  if held ~= 'held' then return refusal(held) end
  -- A large result is in its place, and its events are written beside this script (large_result.lua).
  local is_placed = result == ''
  if is_placed and m[PLACED] ~= token then error('the result of ' .. P .. id .. ' is not in its place') end
  if not is_placed then report(id, '100') end
  local how, keep_equal, prefix, key = read_equal(equal)
  finish(id, m, token, 'completed', result, now, keep_count, keep_ms, how == 'new' or how == 'reused', is_placed)
  if how then
    -- The job has ended: a foreign key among those of equal jobs costs their wake-up and no more.
    local fine, problem =
      pcall(answer_equal, id, result, now, is_placed and how == 'new' and 'reused' or how, keep_equal, prefix, key)
    if not fine then complain(P .. id .. ' ended, jobs that are equal to it were not woken', worded(problem)) end
  end
  return 1
end

-- Slots are free where the worker has no reason to write the outcome again.
local walked, freed = 0, 0
for i = 13, #ARGV, 4 do
  if walked > FARTHEST then break end
  walked = walked + in_flight
  local fine, answer = pcall(complete, ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3], holders[(i - 9) / 4])
  if fine then freed = freed + 1 end
  answers[#answers + 1] = fine and answer or worded(answer)
end

tidy(now)
local claimed = false
if want > 0 and freed > 0 then
  local fine, answer = pcall(claim, min(want, freed), now)
  claimed = fine and answer or worded(answer)
end
return { answers, claimed }
