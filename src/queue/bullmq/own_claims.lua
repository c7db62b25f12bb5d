-- Lists this worker's claims in a stretch of the claimed jobs, the oldest first. What was claimed a moment ago is left out.
-- KEYS 1 prefix
-- ARGV 1 worker  2 where to begin: claimed jobs that are passed over  3 stretch  4 lock ms: how long a moment is
-- Returns {ids, how many claimed jobs were looked at}.
local tokens, offset, stretch, latest =
  ARGV[1] .. ':', tonumber(ARGV[2]), tonumber(ARGV[3]), now_ms() - tonumber(ARGV[4])
local mine, claimed = {}, call('LRANGE', P .. 'active', -offset - stretch, -offset - 1)
for i = #claimed, 1, -1 do
  if claim_of(claimed[i], tokens, latest) then mine[#mine + 1] = claimed[i] end
end
return { mine, #claimed }
