-- Prelude of the scripts that tell a dead replica from an outage of Redis. After an outage every lease has run out, and
-- whoever lives must have had the chance to renew before anybody is judged. The fleet's renewals are the witness: each
-- replica renews three times a lease, so as long as no two renewals by anybody are further apart than two thirds of one,
-- Redis was there, and a lease that has run out is that of a dead replica. No replica need have lived for a whole lease
-- itself: jobs come back in time even where all of them die faster than that.
-- `witness` is a hash: `since` when renewals follow each other, and the `last` of them, ms of Redis's clock.
local function is_gap(last, now, ttl) return not last or last > now or now - last > ttl * 2 / 3 end

local function note_renewal(witness, now, ttl)
  local last = tonumber(redis.call('HGET', witness, 'last') or nil)
  redis.call('HSET', witness, 'last', now, unpack(is_gap(last, now, ttl) and { 'since', now } or {}))
end

-- Whether a lease that has run out says that its replica is dead.
local function may_judge(witness, now, ttl)
  local m = redis.call('HMGET', witness, 'since', 'last')
  local since, last = tonumber(m[1] or nil), tonumber(m[2] or nil)
  return since and not is_gap(last, now, ttl) and now - since >= ttl
end

