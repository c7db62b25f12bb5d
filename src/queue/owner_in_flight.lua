-- Third prelude of the scripts that claim: how many jobs each owner has in flight, over the fleet, where that is limited.
--
-- `state:busy` is a hash: owner → ids of jobs that were claimed, packed. A job is in flight for as long as its claim's lease
-- lives, so an entry needs no counterpart when the job ends, and none is left of a replica that was killed: the next claim
-- for its owner passes over it. The hash runs out when no claim and no renewal has touched it for twice a lease.
-- `state:full` says that jobs wait although slots were free, because their owners have as many in flight as they may: it is
-- what an end of a job has to announce. Its value is how many jobs waited: another number is a reason to look.

-- Entries that a claim looks at, at most, to remove those of owners who have nothing in flight any more.
local MOST_PRUNED = 8

-- The jobs in flight by owner; nil where they are not limited. `most` is the limit.
local function open_busy(line, most)
  local key = line.state .. ':busy'
  if most == 0 or line.key == '' or type(protected('HLEN', key)) ~= 'number' then return end
  local known, changed, busy = {}, {}, {}

  local function keep(owner, packed)
    local ids, readable, all = {}, pcall(cmsgpack.unpack, packed or '')
    for _, id in ipairs(packed and readable and type(all) == 'table' and all or {}) do
      if type(id) == 'string' and line.is_in_flight(id) then
        ids[#ids + 1] = id
      else
        changed[owner] = true
      end
    end
    known[owner] = ids
  end

  -- Reads what these owners have in flight.
  function busy.load(owners)
    local unknown = {}
    for _, owner in ipairs(owners) do
      if not known[owner] then unknown[#unknown + 1] = owner end
    end
    if #unknown == 0 then return end
    for i, packed in ipairs(call('HMGET', key, unpack(unknown))) do
      keep(unknown[i], packed)
    end
  end

  -- How many more jobs of an owner may start.
  function busy.room(owner)
    busy.load({ owner })
    return max(0, most - #known[owner])
  end

  function busy.add(owner, id)
    busy.load({ owner })
    known[owner][#known[owner] + 1], changed[owner] = id, true
  end

  function busy.save(ms)
    local some = call('HRANDFIELD', key, MOST_PRUNED, 'WITHVALUES')
    for i = 1, #some, 2 do
      if not known[some[i]] then keep(some[i], some[i + 1]) end
    end
    for owner in pairs(changed) do
      if #known[owner] == 0 then
        call('HDEL', key, owner)
      else
        call('HSET', key, owner, cmsgpack.pack(known[owner]))
      end
    end
    call('PEXPIRE', key, 2 * ms)
    -- Other jobs could not fill the slots: the end of a job is worth a look then.
    if busy.is_short and busy.passed then call('SET', line.state .. ':full', call('LLEN', line.list), 'PX', ms) end
  end

  return busy
end
