-- Prelude of the scripts that tell a dead replica from an outage of Redis. After an outage every lease has run out, and
-- whoever lives must have had the chance to renew before anybody is judged. The fleet's renewals are the witness: each
-- replica renews three times a lease, so as long as no two renewals by anybody are further apart than two thirds of one,
-- Redis was there, and a lease that has run out is that of a dead replica. No replica need have lived for a whole lease
-- itself: jobs come back in time even where all of them die faster than that.
-- `witness` is a string, since when renewals follow each other (ms of Redis's clock); it runs out where they do not.
local function note_renewal(witness, clock, ttl)
  local longest_gap = floor(ttl * 2 / 3)
  if redis.call('PEXPIRE', witness, longest_gap) == 0 then
    redis.call('SET', witness, string.format('%.0f', clock()), 'PX', longest_gap)
  end
end

-- Whether a lease that has run out says that its replica is dead.
local function may_judge(witness, now, ttl)
  local since = tonumber(redis.call('GET', witness) or nil)
  return since and now - since >= ttl
end

