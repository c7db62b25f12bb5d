-- Puts a job off: a failed attempt, or a wait that costs none.
-- KEYS 1 prefix
-- ARGV 1 job id  2 claim token  3 delay ms  4 does the attempt count 0|1  5 reason  6 note for the history, or ''
--      7 gate that it waits for, or ''  8 is such a wait added up 0|1
-- Returns 1 applied (now or before), 0 lost.
local id, token, delay, counts, reason = ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4] == '1', ARGV[5]
local key, gate = P .. id, ARGV[7]
local held = standing(id, token)
if held ~= 'held' then return refusal(held) end

expect_claims()
expect_log(id)
local now = now_ms()
remember(id, now, ARGV[6], not counts)
if counts then
  blame(id, reason)
  call('HDEL', key, 'bw:why')
  bump(key, 'atm')
else
  call('HSET', key, 'bw:why', reason)
end
if gate == '' then
  call('HDEL', key, 'bw:gate')
else
  call('HSET', key, 'bw:gate', gate)
  if ARGV[8] == '1' then call('HSET', key, 'bw:waited', text(count(call('HGET', key, 'bw:waited'), 0) + delay)) end
end
if counts and delay == 0 then
  promote(now)
  local m = call('HMGET', key, 'opts', 'priority')
  local in_front = options(m[1]).lifo == true and count(m[2], 0) == 0
  line_up(P, (target(P)), id, in_front)
  let_go(id, token)
  announce(P, id, 'active')
else
  call('HSET', key, 'delay', ARGV[3])
  put_off(P, id, now + delay)
  let_go(id, token)
end
unlock(id)
return 1
