-- Second prelude, of the scripts that take from, or put into, the fair line of those that wait (../fair_line.lua).

-- A larger payload does not pass through a script: the caller finds the owner of its job.
local LARGEST = 262144

-- The line of the jobs that wait; `key` names the field, of the data within a task, that names their owners.
local function wait_line(active, data, scheduled, state, meta_prefix, key)
  local line, quoted = { list = active, state = state, key = key }, '"' .. key .. '"'

  function line.at(distance) return digits(distance) end
  function line.range(first, last) return digits(first), digits(last) end
  function line.from_front() end
  function line.pop(n) return n > 0 and call('LPOP', active, n) or {} end
  function line.drop(n) call('LTRIM', active, digits(n), '-1') end
  function line.push(...) call('LPUSH', active, ...) end

  function line.owner_of(id, known)
    local size = call('HSTRLEN', data, id)
    if size == 0 then return '', 0 end
    if size <= LARGEST then
      local task = call('HGET', data, id)
      if line.payloads then line.payloads[id] = task end
      return owner_in(task, quoted, 2), size
    end
    local meta = meta_prefix .. id
    if known[id] then protected('HSET', meta, 'owner', known[id]) end
    local stored = protected('HGET', meta, 'owner')
    return known[id] or type(stored) == 'string' and stored or nil, 0
  end

  -- Whether a job that is not found in the list has left it: removed, claimed, ended or put off.
  function line.is_elsewhere(id)
    local m = protected('HMGET', meta_prefix .. id, 'status', 'claim')
    if m.err then return true end
    if m[2] and m[2] ~= '' or m[1] and m[1] ~= 'Pending' then return true end
    return call('ZSCORE', scheduled, id) or not m[1] and call('HEXISTS', data, id) == 0
  end

  return line
end

-- Gives the owner of a job that goes back to the front its turn back.
local function returned(data, state, id)
  local key = key_of_refund(state, id)
  if not key then return end
  local line = wait_line('', data, '', state, '', key)
  local size = call('HSTRLEN', data, id)
  if size > 0 and size <= LARGEST then refund_turn(line, line.owner_of(id, {})) end
end
