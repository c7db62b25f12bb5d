-- Renews the leases of one replica's permits.
-- KEYS  as in common.lua
-- ARGV  2… permit ids
-- Returns the ids whose lease has run out: another call may hold the slot by now.
local lost, renewed, probes = {}, false, false
for i = 2, #ARGV do
  local id = ARGV[i]
  if (whole(call('ZSCORE', LEASES, id)) or 0) > now then
    renewed = true
    call('ZADD', LEASES, now + lease_ttl, id)
    if call('ZSCORE', PROBES, id) then
      probes = true
      call('ZADD', PROBES, now + lease_ttl, id)
    end
  else
    lost[#lost + 1] = id
  end
end
if renewed then call('HSET', WIN, 'hw', now) end
if probes then call('HSET', META, 'hw', now) end
return lost
