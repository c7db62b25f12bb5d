-- Estimates a job's position in the order of claims. `line` is the line of waiting jobs.
-- Returns {number of jobs claimed before it, -1 where unknown; number of waiting jobs; number of their owners, as far
-- as they were counted}.
local MOST_OWNERS, MOST_ENTRIES, NEAR = 500, 5000, 10000

-- How many owners a stretch of the line has, without those that were seen.
local function owners_of(line, from, seen)
  local number, read = 0, 0
  for _, id in ipairs(ids_between(line, from, from + 63)) do
    local owner, size = line.owner_of(id, {})
    read = read + (size or 0)
    if read > MOST_READ then break end
    if owner and not seen[owner] then
      seen[owner], number = true, number + 1
    end
  end
  return number
end

-- At which distance those begin that have come since the last claim, and have no entry yet.
local function last_distance(line, length)
  local last_id = call('HGET', line.state, 'last_id')
  local at = last_id and call('LPOS', line.list, last_id, 'RANK', -line.rank, 'MAXLEN', 1000)
  return at and (line.rank < 0 and length - at or at + 1) or 0
end

-- How many jobs of its owner stand before one that has no entry. Looks at a bounded number of those.
local function rank_at_the_back(line, id, owner, from)
  local same, read = call('LLEN', line.state .. ':line:' .. owner), 0
  for _, other in ipairs(ids_between(line, from, from + 255)) do
    if other == id then return same end
    local of, size = line.owner_of(other, {})
    read = read + (size or 0)
    if of == owner then same = same + 1 end
    if read > MOST_READ then return end
  end
end

-- How many jobs of other owners are claimed before the one that has `rank` of its owner's jobs in front of it; nil without
-- a rank. Returns also which owners have jobs in line, as a set, and how many they are.
local function others_before(state, owner, rank)
  local turns, lines = state .. ':turns', state .. ':line:'
  local turn = rank and tonumber(call('ZSCORE', turns, owner) or nil)
  -- An owner who joins is the last of the round.
  if rank and not turn then turn = (floor(number_of(call('HGET', state, 'turn')) / ROUND) + 1) * ROUND - 1 end
  local mine, before, seen, owners = turn and turn + rank * ROUND, 0, {}, 0
  local due = call('ZRANGE', turns, 0, MOST_OWNERS - 1, 'WITHSCORES')
  for i = 1, #due, 2 do
    local waiting, score = call('LLEN', lines .. due[i]), tonumber(due[i + 1])
    if waiting > 0 then
      owners, seen[due[i]] = owners + 1, true
    end
    if mine and due[i] ~= owner and score <= mine then
      before = before + min(waiting, floor((mine - score) / ROUND) + 1)
    end
  end
  return mine and before, seen, owners
end

-- How many jobs of its owner stand before a job that has an entry; nil where it has none, or stands very deep.
local function rank_in_line(state, owner, id)
  for nth, entry in ipairs(call('LRANGE', state .. ':line:' .. owner, 0, MOST_ENTRIES - 1)) do
    if string.match(entry, '^%-?%d+:(.*)$') == id then return nth - 1 end
  end
end

local function standing_of(line, id)
  local length = call('LLEN', line.list)
  local key = protected('HGET', line.state, 'key')
  if length == 0 or type(key) ~= 'string' or key == '' or line.key == '' then
    local place = id ~= '' and length > 0 and call('LPOS', line.list, id, 'RANK', line.rank, 'MAXLEN', NEAR)
    if place and line.rank < 0 then place = length - 1 - place end
    return { place or -1, length, line.key ~= '' and length > 0 and owners_of(line, 0, {}) or 0 }
  end
  local back = last_distance(line, length)
  local owner = id ~= '' and line.owner_of(id, {})
  local rank = owner and rank_in_line(line.state, owner, id)
  -- Those that were put at the front since the last claim have no entry yet, and are next.
  local front_id = call('HGET', line.state, 'front_id')
  local at = front_id and call('LPOS', line.list, front_id, 'RANK', line.rank, 'MAXLEN', 1000)
  local first = at and (line.rank < 0 and length - 1 - at or at) or 0
  for nth, other in ipairs(id ~= '' and ids_between(line, 0, first - 1) or {}) do
    if other == id then return { nth - 1, length, owners_of(line, 0, {}) } end
  end
  if owner and not rank then rank = rank_at_the_back(line, id, owner, back) end
  local before, seen, owners = others_before(line.state, owner, rank)
  return { before and before + rank + first or -1, length, owners + owners_of(line, back, seen) }
end
