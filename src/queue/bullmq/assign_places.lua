-- Gives jobs that wait their places in the fair line, or clears what is left of a line that is not used.
-- KEYS 1 prefix
-- ARGV 1 field of the payload that names a job's owner, or ''  2 how many jobs at most  3… pairs of job id, owner: of jobs
--      whose payload is too large to be read here
-- Returns {1 there is more to do | 0, id of a job whose owner has to be found, or ''}.
local known = {}
for i = 3, #ARGV, 2 do
  known[ARGV[i]] = ARGV[i + 1]
end
expect_lines(P)
if orders(P)[3] then return { 0, '' } end
local line, most = wait_line(ARGV[1]), tonumber(ARGV[2])
local fair, clears = open_line(line, most, known)
if fair then
  fair.save()
  if fair.without_place > 0 then return { 1, fair.unknown or '' } end
elseif clears then
  return { 1, '' }
end
local level = open_level(line, 1, most, known)
if not level then return { 0, '' } end
level.save()
return { level.without_place > 0 and 1 or 0, level.unknown or '' }
