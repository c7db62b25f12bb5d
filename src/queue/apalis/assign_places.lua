-- Gives jobs that wait their places in the fair line, or clears what is left of a line that is not used.
-- KEYS 1 active  2 data  3 scheduled  4 fair
-- ARGV 1 field of the payload that names a job's owner, or ''  2 how many jobs at most  3 meta prefix
--      4… pairs of job id, owner: of jobs whose payload is too large to be read here
-- Returns {1 there is more to do | 0, id of a job whose owner has to be found, or ''}.
local known = {}
for i = 4, #ARGV, 2 do
  known[ARGV[i]] = ARGV[i + 1]
end
call('HLEN', KEYS[2])
local line = wait_line(KEYS[1], KEYS[2], KEYS[3], KEYS[4], ARGV[3], ARGV[1])
local fair, clears = open_line(line, tonumber(ARGV[2]), known)
if not fair then return { clears and 1 or 0, '' } end
fair.save()
return { fair.without_place > 0 and 1 or 0, fair.unknown or '' }
