-- Returns the position of a job in the line.
-- KEYS 1 prefix
-- ARGV 1 job id, or ''  2 field of the payload that names a job's owner, or ''
-- Returns what ../standing.lua says.
local line = wait_line(ARGV[2])
line.rank = -1
if orders(P)[3] then line.list = P .. 'paused' end
return standing_of(line, ARGV[1])
