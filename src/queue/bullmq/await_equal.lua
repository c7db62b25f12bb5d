-- Makes a job wait for the result of an equal one. It costs no attempt.
-- KEYS 1 prefix
-- ARGV 1 job id  2 claim token  3 delay ms after which it comes by itself  4 reason  5 prefix of the equal jobs' keys
-- Where no claim leads any more, the job goes back to the front of the line: the leader has ended since.
-- Returns 1 applied (now or before), 0 lost.
local id, token, delay, reason, equal = ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4], ARGV[5]
local key = P .. id
local held = standing(id, token)
if held ~= 'held' then return refusal(held) end

expect_claims()
local now = now_ms()
if not leader_left(equal, now) then
  give_back(id, token)
  return 1
end
note_waiting(equal, P, id, now)
call('HSET', key, 'bw:why', reason, 'bw:awaited', '1', 'delay', ARGV[3])
call('HDEL', key, 'bw:gate')
put_off(P, id, now + delay)
let_go(id, token, 'progress', '0')
unlock(id)
return 1
