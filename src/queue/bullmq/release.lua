-- Puts jobs back as if they had not been claimed: next in line, no attempt spent.
-- KEYS 1 prefix
-- ARGV 1… pairs of job id, claim token, the first claimed first
-- Returns how many were put back.
local released = 0
for i = #ARGV - 1, 1, -2 do
  if standing(ARGV[i], ARGV[i + 1]) == 'held' then
    give_back(ARGV[i], ARGV[i + 1])
    released = released + 1
  end
end
return released
