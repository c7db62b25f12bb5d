-- Notes that a paid call is about to be sent, unless its answer is known.
-- KEYS 1 the job's page
-- ARGV 1 entry  2 mark of this sending  3 time to live, ms  4 token of the delivery: that it got so far counts when it is lost
-- Returns what stood there: '' nothing (or this very mark: a resend), '?…' the mark of a call whose answer nobody has
-- seen, '=…' a kept answer, which stays.
local found = redis.call('HGET', KEYS[1], ARGV[1]) or ''
if found:sub(1, 1) == '=' then return found end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2], 'by', ARGV[4])
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return found == ARGV[2] and '' or found
