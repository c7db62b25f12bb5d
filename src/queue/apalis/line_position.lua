-- Returns the position of a job in the line.
-- KEYS 1 active  2 data  3 scheduled  4 fair
-- ARGV 1 job id, or ''  2 field of the payload that names a job's owner, or ''  3 meta prefix
-- Returns what ../line_position.lua says.
local line = wait_line(KEYS[1], KEYS[2], KEYS[3], KEYS[4], ARGV[3], ARGV[2])
line.rank = 1
return standing_of(line, ARGV[1])
