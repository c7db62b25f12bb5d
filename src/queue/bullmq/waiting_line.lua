-- Third prelude, of the scripts that take from, or put into, the fair line of those that wait (../fair_line.lua).

-- A larger payload does not pass through a script: the caller finds the owner of its job.
local LARGEST = 262144

-- The upper part of a job's score is its priority. `level_state` names the fair line of a priority (priority_levels.lua).
local LEVEL, PRIORITIZED = 4294967296, P .. 'prioritized'
local function level_state(level) return P .. 'bw:fair:p' .. text(level) end

-- The line of the jobs that wait without a priority; `key` names the field of the payload that names their owners.
local function wait_line(key)
  local line, quoted = { list = P .. 'wait', state = P .. 'bw:fair', key = key }, '"' .. key .. '"'

  function line.at(distance) return digits(-1 - distance) end
  function line.range(first, last) return digits(-1 - last), digits(-1 - first) end
  function line.from_front(ids)
    for i = 1, floor(#ids / 2) do
      ids[i], ids[#ids + 1 - i] = ids[#ids + 1 - i], ids[i]
    end
  end
  function line.pop(n) return n > 0 and call('RPOP', line.list, n) or {} end
  function line.drop(n) call('LTRIM', line.list, '0', digits(-1 - n)) end
  function line.push(...) call('RPUSH', line.list, ...) end

  function line.owner_of(id, known)
    local job = P .. id
    local size = protected('HSTRLEN', job, 'data')
    if type(size) ~= 'number' or size == 0 then return '', 0 end
    if size <= LARGEST then
      local data = call('HGET', job, 'data')
      if line.payloads then line.payloads[id] = data end
      return owner_in(data, quoted, 1), size
    end
    if known[id] then call('HSET', job, 'bw:owner', known[id]) end
    return known[id] or call('HGET', job, 'bw:owner') or nil, 0
  end

  function line.is_in_flight(id) return call('EXISTS', P .. id .. ':lock') == 1 end

  -- Whether a job that is not found in the list has left it: removed, claimed, ended or put off.
  function line.is_elsewhere(id)
    local job = P .. id
    return call('EXISTS', job) == 0
      or call('EXISTS', job .. ':lock') == 1
      or call('ZSCORE', P .. 'delayed', id)
      or call('ZSCORE', P .. 'completed', id)
      or call('ZSCORE', P .. 'failed', id)
      or call('ZSCORE', P .. 'prioritized', id)
  end

  return line
end

-- Gives the owner of a job that goes back to the front its turn back. One with a priority is the next of its priority
-- (priority_levels.lua), and needs none.
function returned(id)
  if count(call('HGET', P .. id, 'priority'), 0) > 0 then return end
  local key = key_of_refund(P .. 'bw:fair', id)
  if not key then return end
  local line = wait_line(key)
  local owner = line.owner_of(id, {})
  if owner then refund_turn(line, owner) end
end
