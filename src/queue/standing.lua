-- Estimates a job's position in the order of claims. `line` is the line of waiting jobs.
-- Returns {number of jobs claimed before it, -1 where unknown; number of waiting jobs; number of their owners, as far
-- as they were counted}.
local MOST_OWNERS, MOST_ENTRIES, NEAR = 500, 5000, 10000

local function owners_in_front(line)
  local seen, number = {}, 0
  for _, id in ipairs(ids_between(line, 0, 63)) do
    local owner = line.owner_of(id, {})
    if owner and not seen[owner] then
      seen[owner], number = true, number + 1
    end
  end
  return number
end

local function standing_of(line, id)
  local length, lines = call('LLEN', line.list), line.state .. ':line:'
  local key = protected('HGET', line.state, 'key')
  if length == 0 or type(key) ~= 'string' or key == '' or line.key == '' then
    local place = id ~= '' and length > 0 and call('LPOS', line.list, id, 'RANK', line.rank, 'MAXLEN', NEAR)
    if place and line.rank < 0 then place = length - 1 - place end
    return { place or -1, length, line.key ~= '' and length > 0 and owners_in_front(line) or 0 }
  end
  local due = call('ZRANGE', line.state .. ':turns', 0, MOST_OWNERS - 1, 'WITHSCORES')
  local owner, rank = id ~= '' and line.owner_of(id, {}), nil
  if owner then
    for nth, entry in ipairs(call('LRANGE', lines .. owner, 0, MOST_ENTRIES - 1)) do
      if string.match(entry, '^%-?%d+:(.*)$') == id then
        rank = nth - 1
        break
      end
    end
  end
  local turn = rank and tonumber(call('ZSCORE', line.state .. ':turns', owner) or nil)
  local mine, ahead, owners = turn and turn + rank * ROUND, rank or 0, 0
  for i = 1, #due, 2 do
    local waiting, score = call('LLEN', lines .. due[i]), tonumber(due[i + 1])
    if waiting > 0 then owners = owners + 1 end
    if mine and due[i] ~= owner and score <= mine then ahead = ahead + min(waiting, floor((mine - score) / ROUND) + 1) end
  end
  return { mine and ahead or -1, length, owners }
end

