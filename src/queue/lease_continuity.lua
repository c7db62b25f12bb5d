-- Prelude of the scripts that distinguish a dead replica from an outage of Redis. After an outage every lease has run
-- out, and each live replica needs the chance to renew before a sweep takes its jobs. Each replica renews three times a
-- lease. As long as successive renewals of the fleet are at most two thirds of a lease apart, Redis was reachable, and
-- an expired lease belongs to a dead replica. The record covers the fleet, not one replica: jobs come back in time even
-- where every replica dies within one lease.
-- `witness` is a string: the time since which renewals are continuous (ms of Redis's clock). It expires after a gap.
local function note_renewal(witness, clock, ttl)
  local longest_gap = floor(ttl * 2 / 3)
  if redis.call('PEXPIRE', witness, longest_gap) == 0 then
    redis.call('SET', witness, string.format('%.0f', clock()), 'PX', longest_gap)
  end
end

-- True if an expired lease proves that its replica is dead.
local function may_judge(witness, now, ttl)
  local since = tonumber(redis.call('GET', witness) or nil)
  return since and now - since >= ttl
end
