-- Puts jobs back as if they had not been claimed: next in line, no attempt spent.
-- KEYS 1 prefix
-- ARGV 1… pairs of job id, claim token, the first claimed first
-- Returns how many of them this worker had: put back now, or before.
expect_claims()
local released = 0
for i = #ARGV - 1, 1, -2 do
  local held = standing(ARGV[i], ARGV[i + 1])
  if held == 'held' then give_back(ARGV[i], ARGV[i + 1]) end
  if held == 'held' or held == 'settled' then released = released + 1 end
end
return released
