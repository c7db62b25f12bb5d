-- Notes that a job whose earlier delivery was lost is about to run alone: should this delivery be lost as well, it counts
-- towards poison.
-- KEYS 1 prefix
-- ARGV 1 job id  2 claim token
-- Returns 1 noted, 0 lost.
if standing(ARGV[1], ARGV[2]) ~= 'held' then return 0 end
call('HSET', P .. ARGV[1], 'bw:begun', ARGV[2])
return 1
