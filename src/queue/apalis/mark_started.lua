-- Notes that a job whose earlier delivery was lost is about to run alone: should this delivery be lost as well, it counts
-- towards poison.
-- KEYS 1 inflight of this worker
-- ARGV 1 job id  2 claim token  3 meta prefix
-- Returns 1 noted, 0 lost.
local meta = ARGV[3] .. ARGV[1]
if standing(meta, KEYS[1], ARGV[1], ARGV[2]) ~= 'held' then return 0 end
call('HSET', meta, 'begun', ARGV[2])
return 1
