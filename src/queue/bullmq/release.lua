-- Puts jobs back as if they had not been claimed: next in line, no attempt spent.
-- KEYS 1 prefix
-- ARGV 1… pairs of job id, claim token, the first claimed first
-- Returns {how many of them this worker had: put back now, or before; how many are left to do, the first ones}.
expect_claims()
local released, walked = 0, 0
for i = #ARGV - 1, 1, -2 do
  if walked > FARTHEST then return { released, (i + 1) / 2 } end
  local held = standing(ARGV[i], ARGV[i + 1])
  if held == 'held' then
    walked = walked + in_flight
    give_back(ARGV[i], ARGV[i + 1])
  end
  if held == 'held' or held == 'settled' then released = released + 1 end
end
return { released, 0 }
