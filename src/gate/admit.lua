-- Asks for permits, one for each call, in this order: a later one sees what an earlier one was granted. ARGV first … last
-- are of each call: permit id, tokens that it will use (0 not limited).
-- Returns for each {state, epoch, now ms, state that it moved the breaker to or nil,
--                   {reason, retry after ms (-1 never), the account's fault behind the breaker or ''} or nil,
--                   {1 probe | 0, lease ends ms} or nil}
-- Asked again with the same ids after a lost reply it returns the same permits, and charges nothing.
local function admit_all(first, last)
  local open_for, half_open_max, success_threshold = tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
  -- Probes come free whenever a call ends: a rejection asks to look again soon.
  local PROBE_HINT = 1000
  -- With fewer probes than successes wanted, HALF_OPEN could never close.
  half_open_max = max(half_open_max, success_threshold)

  local moved_to
  local function granted(permit_epoch, probe, expires)
    return { state, permit_epoch, now, moved_to, false, { probe, expires } }
  end
  local function refused(reason, wait)
    return { state, epoch, now, moved_to, { reason, wait < 0 and -1 or max(1, floor(wait)), fault or '' }, false }
  end

  local new_leases, new_data = {}, {}

  -- If several limits refuse the call, the answer names the one with the longest wait.
  local why, longest
  local function needs(reason, wait)
    if wait > longest then
      why, longest = reason, wait
    end
  end

  local function admit(id, estimate, earlier)
    moved_to, why, longest = false, nil, 0
    if earlier then
      local expires = whole(call('ZSCORE', LEASES, id)) or 0
      local lease_epoch, probe = string.match(earlier, '^(%d+):(%d):')
      if lease_epoch and expires > now then return granted(tonumber(lease_epoch), tonumber(probe), expires) end
    end

    -- The breaker.
    local half_opens, live_probes = false, 0
    if state == 'HALF_OPEN' and successes >= success_threshold then
      enter('CLOSED')
      ramp_epoch = epoch
      call('HSET', META, 'ramp', epoch)
      moved_to = state
    end
    if state == 'OPEN' then
      if not opened_at or opened_at > now then -- missing, or from the future
        opened_at = now
        call('SET', OPENED_AT, now)
        call('HSET', META, 'hw', now)
      end
      local left = opened_at + open_time(open_for) - now
      if left > 0 then return refused('open', left) end
      half_opens = true
    elseif state == 'HALF_OPEN' then
      local gone = call('ZREMRANGEBYSCORE', PROBES, '-inf', now)
      live_probes = call('ZCARD', PROBES)
      if gone > 0 then call('SET', ATTEMPTS, live_probes + successes) end
      -- More probes cannot pay a bill or replace a key: one at a time shows whether the account works again.
      if live_probes + successes >= (fault and successes == 0 and 1 or half_open_max) then
        local oldest = call('ZRANGE', PROBES, 0, 0, 'WITHSCORES')
        return refused('half_open', min(PROBE_HINT, (whole(oldest[2]) or now) - now))
      end
    end

    -- The limits.
    read_usage()
    if estimate > 0 and tpm > 0 and estimate > tpm then return refused('too_large', -1) end
    need_limits(estimate, needs, tonumber(ARGV[8]))
    if why then return refused(why, longest) end

    -- The commit.
    if half_opens then
      enter('HALF_OPEN')
      moved_to = state
    end
    local probe, expires = 0, now + lease_ttl
    if state == 'HALF_OPEN' then
      probe = 1
      call('ZADD', PROBES, expires, id)
      call('SET', ATTEMPTS, live_probes + successes + 1)
      call('HSET', META, 'hw', now)
    end
    charge(estimate)
    new_leases[#new_leases + 1], new_leases[#new_leases + 2] = expires, id
    new_data[#new_data + 1], new_data[#new_data + 2] =
      id, epoch .. ':' .. probe .. ':' .. bucket .. ':' .. estimate .. ':' .. slice
    return granted(epoch, probe, expires)
  end

  local ids, answers = {}, {}
  for i = first, last, 2 do
    ids[#ids + 1] = ARGV[i]
  end
  local earlier = call('HMGET', LEASE_DATA, unpack(ids))
  for i, id in ipairs(ids) do
    answers[i] = admit(id, tonumber(ARGV[first + 2 * i - 1]), earlier[i])
  end
  if #new_leases > 0 then
    write_usage()
    call('ZADD', LEASES, unpack(new_leases))
    call('HSET', LEASE_DATA, unpack(new_data))
  end
  return answers
end
