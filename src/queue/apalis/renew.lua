-- Renews a replica's lease on the queue, and says which of its jobs it has lost.
-- KEYS 1 leases  2 workers  3 inflight of this worker  4 witness of the fleet's renewals  5 fair
-- ARGV 1 worker  2 lease ttl ms  3 meta prefix  4… pairs of job id, claim token
-- Returns {how many jobs the queue counts as this worker's, positions (0, 1, …) of the lost pairs, how many leases have
-- run out}.
local now, ttl = now_ms(), tonumber(ARGV[2])
local lease = tonumber(call('ZSCORE', KEYS[1], ARGV[1]) or 0)
note_renewal(KEYS[4], function() return now end, ttl)
call('ZADD', KEYS[1], now + ttl, ARGV[1])
-- Writes the key that apalis's own tools read, twice a minute: these tools count in minutes, and an idle queue should
-- cost few commands.
if floor(now / 30000) ~= floor((lease - ttl) / 30000) then call('ZADD', KEYS[2], floor(now / 1000), ARGV[1]) end
-- How many jobs of each owner are in flight (../owner_in_flight.lua).
if #ARGV > 3 then call('PEXPIRE', KEYS[5] .. ':busy', 2 * ttl) end
local lost = {}
for i = 4, #ARGV, 2 do
  if standing(ARGV[3] .. ARGV[i], KEYS[3], ARGV[i], ARGV[i + 1]) == 'lost' then lost[#lost + 1] = (i - 4) / 2 end
end
return { call('SCARD', KEYS[3]), lost, call('ZCOUNT', KEYS[1], '-inf', now) }
