-- Replaces the parts that a job's result has so far, if the claim of the replica that sends them still holds the job.
-- KEYS 1 parts  2 the claim's lock, or the hash whose `claim` is its token
-- ARGV 1 claim token  2 is the claim a hash 0|1  3 parts  4 how long they stay, ms
-- Returns 1 shown, 0 where another claim holds the job, or none.
local holder
if ARGV[2] == '1' then
  holder = redis.call('HGET', KEYS[2], 'claim')
else
  holder = redis.call('GET', KEYS[2])
end
if holder ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[3], 'PX', ARGV[4])
return 1
