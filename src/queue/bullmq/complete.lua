-- Ends jobs well.
-- KEYS 1 prefix
-- ARGV 1 keep ms  2 keep count  3… triples of job id, claim token, result as JSON
-- Returns for each job 1 applied (now or before), 0 lost, or the error that kept it from being written. Where many jobs
-- are in flight it does the first ones only.
local keep_ms, keep_count, now, answers = tonumber(ARGV[1]), tonumber(ARGV[2]), now_ms(), {}
-- Where jobs wait is read when something is put there; a parent's keys by whoever tells it.
expect_active()
expect(P, 'completed')
if orders(P)[2] then expect_lines(P) end

local function complete(id, token, result)
  local m = call('HMGET', P .. id, unpack(ENDING))
  local held = standing(id, token, m)
  if held ~= 'held' then return refusal(held) end
  report(id, 100)
  finish(id, m, token, 'completed', result, now, keep_count, keep_ms)
  return 1
end

local walked = 0
for i = 3, #ARGV, 3 do
  if walked > FARTHEST then break end
  walked = walked + in_flight
  local fine, answer = pcall(complete, ARGV[i], ARGV[i + 1], ARGV[i + 2])
  -- Since Redis 7 an error is a table.
  if not fine and type(answer) == 'table' then answer = answer.err end
  answers[#answers + 1] = answer
end
tidy()
return answers
