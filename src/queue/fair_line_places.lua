-- Second prelude of the scripts that give jobs their places in the fair line (fair_line.lua), or take them from it: finds
-- where jobs stand, and gives places.

-- Jobs that one claim arranges at most: most claims take fewer, and those after it find theirs at the front.
local MOST_READY = 64

-- A line of so many jobs is not arranged: claims take them as they are due.
local SHORT_LINE = 16

-- Finds where the line's known jobs stand now. The list may have changed since the last script. `s` is the line's state.
-- Returns the front's place, how many jobs at the front have none, and at which distance those without a place begin at
-- the back; nil where that cannot be told.
local function find_places(line, s, length)
  local front, unplaced = s.front, 0
  if call('LINDEX', line.list, line.at(0)) ~= s.front_id then
    local at = distance_of(line, s.front_id, 1, SHORT_LINE) or distance_of(line, s.front_id, SHORT_LINE + 1, NEARBY)
    if at then
      unplaced = at -- Some were put in front of it.
    else
      -- It was taken by others: the place of one of the first is looked up in its owner's line.
      local ids = ids_between(line, 0, 15 + MOST_READY)
      for i, id in ipairs(ids) do
        local place = call('HGET', line.state .. ':moved', id)
        local owner = not place and line.owner_of(id, {})
        for _, entry in ipairs(owner and call('LRANGE', line.state .. ':line:' .. owner, 0, 63) or {}) do
          local entry_place, entry_id = match(entry, '^(%-?%d+):(.*)$')
          if entry_id == id then place = entry_place end
        end
        if place then
          front, unplaced, s.front_id = number_of(place), i - 1, id
          break
        end
        if i == #ids then return end
      end
    end
    front = front - unplaced
  end
  local guess = s.last - front - s.shift
  if guess == unplaced - 1 then
    s.last, s.shift = front + unplaced - 1, 0
    return front, unplaced, unplaced -- All that had a place were taken.
  end
  if guess >= 0 and call('LINDEX', line.list, line.at(guess)) == s.last_id then return front, unplaced, guess + 1 end
  -- Some in between have been removed.
  local at = distance_of(line, s.last_id, min(guess, length) - NEARBY, min(guess, length))
  if not at then return end
  s.shift = s.last - front - at
  return front, unplaced, at + 1
end

-- Adds an entry of a job to those that are to join their owners' lines, the first one first.
local function gather(gathered, owner, place, id)
  local entries = gathered[owner]
  if not entries then
    entries = {}
    gathered[owner], gathered[#gathered + 1] = entries, owner
  end
  entries[#entries + 1] = digits(place) .. ':' .. id
end

local TOO_LONG_A_NAME = string.rep('-', 65)

-- Adds them to the lines, and gives those owners a turn who have none. `s` is the line's state.
local function queue_up(line, s, gathered, push)
  local turns, lines, fresh = line.state .. ':turns', line.state .. ':line:', {}
  for _, owner in ipairs(gathered) do
    local entries = gathered[owner]
    -- An owner who had entries has a turn.
    if call(push, lines .. owner, unpack(entries)) <= #entries then fresh[#fresh + 1] = owner end
  end
  if #fresh == 0 then return end
  local joins, round = {}, floor(s.turn / ROUND) * ROUND
  for i, turn in ipairs(call('ZMSCORE', turns, unpack(fresh))) do
    if not turn then
      joins[#joins + 1], joins[#joins + 2] = digits(round + s.seq % ROUND), fresh[i]
      s.seq, s.owners = s.seq + 1, s.owners + 1
    end
  end
  if #joins == 0 then return end
  if 2 * s.owners > #joins then return call('ZADD', turns, unpack(joins)) end
  -- The turns of up to 128 owners would be a packed list, which each change walks along. A member that is too long for
  -- such a list, and comes first, makes a tree of it.
  call('ZADD', turns, '0', TOO_LONG_A_NAME, unpack(joins))
  call('ZREM', turns, TOO_LONG_A_NAME)
end

-- Marks the line to be cleared, because its places do not explain the list any more. They are then given again.
local function start_over(line, s)
  s.clear = true
  call('HSET', line.state, 'clear', '1')
end

-- Says whether jobs are among those that are ready, each of them once.
local function are_ready(ready, ids)
  if not ready or #ids > MOST_READY then return false end
  -- Most often they stand there in the same order.
  if find(ready, BETWEEN .. table.concat(ids, BETWEEN) .. BETWEEN, 1, true) then return true end
  local seen = {}
  for _, id in ipairs(ids) do
    if seen[id] or not is_ready(ready, id) then return false end
    seen[id] = true
  end
  return true
end

-- Gives places, from `first_place` on, to jobs that were put at the front (given back, recovered, lifo): they are the next in
-- their owners' lines. Owners of those that were ready get the turn back that these have used.
-- Returns how many are left because the payloads are too much for one script, and the first job that has a place.
local function place_in_front(line, s, ids, first_place, known)
  local read, gathered, refunds, left = 0, {}, {}, 0
  for i = #ids, 1, -1 do
    local owner, size = line.owner_of(ids[i], known)
    gather(gathered, owner or '', first_place + i - 1, ids[i])
    if is_ready(s.ready, ids[i]) then refunds[#refunds + 1] = owner or '' end
    read = read + (size or 0)
    if read > MOST_READ then
      left = i - 1
      break
    end
  end
  queue_up(line, s, gathered, 'LPUSH')
  for _, owner in ipairs(refunds) do
    call('ZINCRBY', line.state .. ':turns', -ROUND, owner)
  end
  return left, ids[left + 1]
end

-- Gives places to jobs that others have put in front of those that are ready, and moves them behind these, which stay ready.
-- Returns false where none is ready.
local function place_behind_ready(line, s, ids, known)
  local ready, others, seen = {}, {}, {}
  for _, id in ipairs(s.ready and #ids <= 2 * MOST_READY and ids or {}) do
    local to = not seen[id] and is_ready(s.ready, id) and ready or others
    to[#to + 1], seen[id] = id, true
  end
  if #ready == 0 or #ready > MOST_READY then return false end
  -- Those that are left have no place yet, and stay in front of all.
  local left, first_placed = place_in_front(line, s, others, s.front + #ready, known)
  local order = {}
  for i = #others, left + 1, -1 do
    order[#order + 1] = others[i]
  end
  for i = #ready, 1, -1 do
    order[#order + 1] = ready[i]
  end
  for i = left, 1, -1 do
    order[#order + 1] = others[i]
  end
  line.drop(#ids)
  line.push(unpack(order))
  s.left, s.first_placed, s.are_ready = left + #ready, first_placed, left == 0
  return true
end

-- Gives the next jobs without a place one, at most `most`, at the back. `placed` is how many have one.
-- Returns how many have one then, and the id of a job whose owner the caller has to find.
local function place_at_the_back(line, s, front, placed, most, known)
  local place, read, gathered, unknown = s.last or front - 1, 0, {}, nil
  for _, id in ipairs(ids_between(line, placed, placed + most - 1)) do
    local owner, size = line.owner_of(id, known)
    if not owner then
      unknown = id
      break
    end
    place, read, placed = place + 1, read + size, placed + 1
    gather(gathered, owner, place, id)
    s.last_id = id
    if read > MOST_READ then break end
  end
  queue_up(line, s, gathered, 'RPUSH')
  s.last = place
  return placed, unknown
end
