-- Lists a stretch of the jobs that the queue counts as this worker's. What was claimed a moment ago is left out.
-- KEYS 1 inflight of this worker
-- ARGV 1 where to go on  2 stretch  3 meta prefix  4 lease ttl ms: how long a moment is
-- Returns {ids, where to go on, '0' at the end}.
local mine, now = {}, now_ms()
local scan = call('SSCAN', KEYS[1], ARGV[1], 'COUNT', ARGV[2])
for _, id in ipairs(scan[2]) do
  if not claimed_since(ARGV[3] .. id, now - tonumber(ARGV[4]), now) then mine[#mine + 1] = id end
end
return { mine, scan[1] }
