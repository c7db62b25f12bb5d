-- Second prelude of the scripts that give jobs their places in the fair line, or take them from it (fair_line.lua).

-- Owners that one claim passes over at most.
local MOST_PASSED = 1000

-- Jobs that one claim arranges at most: most claims take fewer, and those after it find theirs at the front.
local MOST_READY = 16

-- Finds where the line's known jobs stand now. The list may have changed since the last script. `s` is the line's state.
-- Returns the front's place, how many jobs at the front have none, and at which distance those without a place begin at
-- the back; nil where that cannot be told.
local function find_places(line, s, length)
  local front, unplaced = s.front, 0
  if call('LINDEX', line.list, line.at(0)) ~= s.front_id then
    local at = distance_of(line, s.front_id, 1, MOST_READY) or distance_of(line, s.front_id, MOST_READY + 1, NEARBY)
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

local format = string.format

-- Adds an entry of a job to those that are to join their owners' lines, the first one first.
local function gather(gathered, owner, place, id)
  local entries = gathered[owner]
  if not entries then
    entries = {}
    gathered[owner], gathered[#gathered + 1] = entries, owner
  end
  -- For a number, `format` takes half the time of `..`.
  entries[#entries + 1] = format('%d:%s', place, id)
end

local TOO_LONG_A_NAME = string.rep('-', 65)

-- Adds them to the lines, and gives those owners a turn who have none. `s` is the line's state.
local function queue_up(line, s, gathered, push)
  local turns, lines = line.state .. ':turns', line.state .. ':line:'
  if #gathered == 0 then return end
  for _, owner in ipairs(gathered) do
    call(push, lines .. owner, unpack(gathered[owner]))
  end
  local joins, round = {}, floor(s.turn / ROUND) * ROUND
  for i, turn in ipairs(call('ZMSCORE', turns, unpack(gathered))) do
    if not turn then
      joins[#joins + 1], joins[#joins + 2] = digits(round + s.seq % ROUND), gathered[i]
      s.seq = s.seq + 1
    end
  end
  if #joins == 0 then return end
  if s.owners == 0 then
    -- The turns of up to 128 owners would be a packed list, which each change walks along. A member that is too long for
    -- such a list makes a tree of it.
    call('ZADD', turns, 0, TOO_LONG_A_NAME)
    call('ZREM', turns, TOO_LONG_A_NAME)
  end
  call('ZADD', turns, unpack(joins))
end

-- Marks the line to be cleared, because its places do not explain the list any more. They are then given again.
local function start_over(line, s)
  s.clear = true
  call('HSET', line.state, 'clear', '1')
end

-- Says whether the first `many` jobs are ready, and each of them stands there once.
local function are_ready(line, ready, many)
  if not ready or many > MOST_READY then return false end
  local ids, seen = ids_between(line, 0, many - 1), {}
  for _, id in ipairs(ids) do
    if seen[id] or not is_ready(ready, id) then return false end
    seen[id] = true
  end
  return #ids == many, ids
end

-- Gives places to jobs that were put at the front (given back, recovered, lifo): they are the next in their owners' lines.
-- Owners of those that were ready get the turn back that these have used.
-- Returns how many are left because the payloads are too much for one script, and the first job that has a place.
local function place_in_front(line, s, front, unplaced, known)
  local ids, read, gathered, refunds, left = ids_between(line, 0, unplaced - 1), 0, {}, {}, 0
  for i = unplaced, 1, -1 do
    local owner, size = line.owner_of(ids[i], known)
    gather(gathered, owner or '', front + i - 1, ids[i])
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

-- The owners who are due, the first one first, as many as jobs are wanted. Returns owners, the turn of each, and, with
-- `busy`, how many jobs each may start. Owners at their limit of jobs in flight are passed over (owner_in_flight.lua).
local function owners_due(turns, wanted, busy)
  local owners, scores, limits, from = {}, {}, busy and {}, 0
  repeat
    local due = call('ZRANGE', turns, digits(from), digits(from + wanted - 1), 'WITHSCORES')
    local page = {}
    for i = 1, #due, 2 do
      page[#page + 1] = due[i]
    end
    if busy then busy.load(page) end
    for i, owner in ipairs(page) do
      local room = busy and busy.room(owner)
      if room == 0 then
        busy.passed = true
      else
        local nth = #owners + 1
        owners[nth], scores[nth] = owner, tonumber(due[2 * i])
        if busy then limits[nth] = room end
      end
    end
    from = from + wanted
  until not busy or #owners >= wanted or #page < wanted or from >= MOST_PASSED
  return owners, scores, limits
end

-- How often it is the turn of each of the owners that are due, `wanted` times in all, and the order; without an order one
-- owner has all of them.
local function choose(owners, scores, limits, wanted, busy)
  if #owners == 1 and not busy then return { wanted } end
  local counts, order = {}, {}
  for i = 1, #owners do
    counts[i] = 0
  end
  -- Those that were chosen come again a round later, in the order in which they were chosen: the next is the first of
  -- these, or of those that were not chosen yet.
  local fresh, again, nth = 1, 1, 1
  while nth <= wanted do
    local second = order[again]
    if second and limits and counts[second] >= limits[second] then
      again, busy.passed = again + 1, true
    else
      if scores[fresh] and not (second and scores[second] + counts[second] * ROUND < scores[fresh]) then
        order[nth], fresh = fresh, fresh + 1
      elseif second then
        order[nth], again = second, again + 1
      else
        break
      end
      counts[order[nth]] = counts[order[nth]] + 1
      nth = nth + 1
    end
  end
  return counts, order
end

-- The same where each owner that is due is due once: most often, where at least as many owners wait as jobs are wanted.
local function next_of_each(line, owners, scores)
  local turns, lines = line.state .. ':turns', line.state .. ':line:'
  local ids, entries, due, whose, updates, gone, n = {}, {}, {}, {}, {}, {}, 0
  for i, owner in ipairs(owners) do
    local entry = call('LPOP', lines .. owner)
    if entry then
      local id = sub(entry, (find(entry, ':', 1, true) or 0) + 1)
      n = n + 1
      ids[n], entries[n], due[n], whose[id] = id, entry, scores[i], owner
      updates[2 * n - 1], updates[2 * n] = digits(scores[i] + ROUND), owner
    else
      gone[#gone + 1] = owner
    end
  end
  if #gone > 0 then call('ZREM', turns, unpack(gone)) end
  if n > 0 then call('ZADD', turns, unpack(updates)) end
  return ids, entries, due, true, whose
end

-- The next entries in turn, at most so many, out of their owners' lines: ids, entries, turns, owners; and whether an owner
-- was there. Where more than `wanted` owners are due in one round, up to `most` of them have one each.
local function next_entries(line, wanted, busy, most)
  local turns, lines = line.state .. ':turns', line.state .. ':line:'
  local owners, scores, limits = owners_due(turns, most or wanted, busy)
  local each = #owners
  if most then
    local round = scores[1] and floor(scores[1] / ROUND)
    while each > wanted and floor(scores[each] / ROUND) ~= round do
      owners[each], scores[each], each = nil, nil, each - 1
    end
  end
  if each > 1 and each >= wanted and scores[1] + ROUND >= scores[each] then
    return next_of_each(line, owners, scores)
  end
  local counts, order = choose(owners, scores, limits, wanted, busy)
  local updates, gone, got, given = {}, {}, {}, {}
  for i, owner in ipairs(owners) do
    local count, entries = counts[i]
    if count == 1 then
      entries = { call('LPOP', lines .. owner) or nil }
    else
      entries = count > 0 and call('LPOP', lines .. owner, count) or {}
    end
    given[i], got[i] = 0, entries
    if #entries > 0 then
      updates[#updates + 1], updates[#updates + 2] = digits(scores[i] + #entries * ROUND), owner
    elseif count > 0 then
      gone[#gone + 1] = owner
    end
  end
  if #gone > 0 then call('ZREM', turns, unpack(gone)) end
  if #updates > 0 then call('ZADD', turns, unpack(updates)) end
  local ids, entries, due, whose = {}, {}, {}, {}
  for nth = 1, #owners > 0 and (order and #order or wanted) or 0 do
    local owner = order and order[nth] or 1
    local k = given[owner]
    local entry = got[owner][k + 1]
    if entry then
      local n = #ids + 1
      ids[n], entries[n], due[n] = sub(entry, (find(entry, ':', 1, true) or 0) + 1), entry, scores[owner] + k * ROUND
      given[owner], whose[ids[n]] = k + 1, owners[owner]
    end
  end
  return ids, entries, due, #owners > 0, whose
end

-- Gives owners back the turns of entries whose jobs have gone.
local function refund_gone(line, ids, taken, whose)
  if #taken == #ids then return end
  local is_taken, gone = {}, {}
  for _, id in ipairs(taken) do
    is_taken[id] = true
  end
  for _, id in ipairs(ids) do
    if not is_taken[id] then gone[whose[id]] = (gone[whose[id]] or 0) + 1 end
  end
  for owner, times in pairs(gone) do
    call('ZINCRBY', line.state .. ':turns', -times * ROUND, owner)
  end
end

-- Opens the line: what is in the list and has no place gets one, at most `most` jobs at its back.
-- `known` holds owners of jobs whose payload is too large to be read here, by id; `busy` says how many jobs owners may start
-- (owner_in_flight.lua), or is nil.
-- Returns nil where the list is to be taken from as it is, and then whether there is more to clear; else {take(wanted) →
-- ids, save(), how many jobs have no place, id whose owner the caller has to find}. The caller takes, or saves.
local function open_line(line, most, known, busy)
  local list, state = line.list, line.state
  local m =
    protected('HMGET', state, 'key', 'front', 'front_id', 'last', 'last_id', 'shift', 'seq', 'turn', 'clear', 'ready')
  local owners = protected('ZCARD', state .. ':turns')
  if m.err or type(owners) ~= 'number' then return end
  local has_moved = protected('HLEN', state .. ':moved')
  if type(has_moved) ~= 'number' then return end
  local length = call('LLEN', list)
  if m[1] and (length == 0 or m[1] ~= line.key or m[9]) then return nil, not clear_line(line) end
  if line.key == '' or length == 0 then return end
  local s = {
    front = number_of(m[2]),
    front_id = m[3],
    last = tonumber(m[4] or nil),
    last_id = m[5],
    shift = number_of(m[6]),
    seq = number_of(m[7]),
    turn = number_of(m[8]),
    owners = owners,
    ready = m[10],
  }
  if not m[1] then call('HSET', state, 'key', line.key) end

  -- `left` jobs at the front have no place, and `first_placed` follows them. They may be ready.
  local front, unplaced, placed, left, first_placed, unknown = FIRST_PLACE, 0, 0, 0, nil, nil
  local ready
  if s.last then
    front, unplaced, placed = find_places(line, s, length)
    if not front then
      start_over(line, s)
      return nil, true
    end
  end
  ready = unplaced > 0 and not busy and are_ready(line, s.ready, unplaced)
  if ready then
    left, first_placed = unplaced, s.front_id
  else
    if unplaced > 0 then
      left, first_placed = place_in_front(line, s, front, unplaced, known)
    end
    if s.ready then call('HDEL', state, 'ready') end
  end
  if placed < length and most > 0 and (ready or left == 0) then
    placed, unknown = place_at_the_back(line, s, front, placed, most, known)
  end

  local function save()
    local first_id = left > 0 and first_placed or call('LINDEX', list, line.at(0))
    if not first_id then
      clear_line(line)
    elseif s.last and not s.last_id then
      start_over(line, s) -- The last job was taken by its other copy.
    elseif s.last then
      call(
        'HSET',
        state,
        'front',
        digits(front + left),
        'front_id',
        first_id,
        'last',
        digits(s.last),
        'last_id',
        s.last_id,
        'shift',
        digits(s.shift),
        'seq',
        digits(s.seq),
        'turn',
        digits(s.turn)
      )
    end
  end

  -- At which distance a job stands, after `gone` jobs of the front were popped; nil where it is not in the list any more.
  local function find_entry(id, place, gone)
    local guess = place - front - s.shift - gone
    if guess >= 0 and call('LINDEX', list, line.at(guess)) == id then return guess end
    local at = distance_of(line, id, guess - NEARBY, guess + NEARBY)
    if at then
      s.shift = place - front - gone - at
    elseif not line.is_elsewhere(id) then
      start_over(line, s)
    end
    return at
  end

  -- Places of jobs that stand where others were taken from, by id.
  local function moved_places(ids)
    local places, moved = {}, {}
    for i, place in ipairs(call('HMGET', state .. ':moved', unpack(ids))) do
      if place then
        places[ids[i]], moved[#moved + 1] = place, ids[i]
      end
    end
    if #moved > 0 then has_moved = has_moved - call('HDEL', state .. ':moved', unpack(moved)) end
    return places
  end

  -- Takes jobs out of the list, wherever they stand: the first ones take the places of those behind them.
  local function take_out(ids, entries, due)
    local places = has_moved > 0 and #ids > 0 and moved_places(ids) or {}
    local popped, near, is_taken, taken, far = line.pop(#ids), {}, {}, {}, {}
    local in_order = #popped == #ids
    for i, id in ipairs(in_order and ids or {}) do
      if popped[i] ~= id or is_taken[id] then
        in_order = false
        break
      end
      is_taken[id] = true
    end
    if in_order then
      for i = 1, #due do
        s.turn = max(s.turn, due[i])
      end
      front = front + #ids
      return popped
    end
    is_taken = {}
    -- A list can hold an id twice: its first copy is the one that is taken.
    for i, id in ipairs(popped) do
      near[id] = near[id] or i
    end
    for i, id in ipairs(ids) do
      local nth, distance, place = near[id], nil, nil
      if not nth and not is_taken[id] then
        place = number_of(places[id] or match(entries[i], '^%-?%d+'))
        distance = find_entry(id, place, #popped)
      end
      if not is_taken[id] and (nth or distance) then
        taken[#taken + 1], is_taken[id] = id, true
        s.turn = max(s.turn, due[i])
        if nth then
          popped[nth] = false
        else
          far[#far + 1] = { distance, id, place }
        end
      end
    end
    local fillers, moved = {}, {}
    for _, id in ipairs(popped) do
      if id then fillers[#fillers + 1] = id end
    end
    for _, job in ipairs(far) do
      local filler = table.remove(fillers)
      call('LSET', list, line.at(job[1]), filler)
      if filler == s.last_id then s.last_id = nil end
      if job[2] == s.last_id then s.last_id = filler end
      moved[#moved + 1], moved[#moved + 2] = filler, job[3]
    end
    front = front + #taken
    -- For each job that was not found, one of the first jobs stays at the front.
    for i = #fillers, 1, -1 do
      line.push(fillers[i])
      moved[#moved + 1], moved[#moved + 2] = fillers[i], front + i - 1
    end
    if #moved > 0 then has_moved = has_moved + call('HSET', state .. ':moved', unpack(moved)) end
    return taken
  end

  -- Puts those behind the first `wanted` to the front in turn: they are ready for the next claims.
  local function arrange(taken, wanted)
    local rest = {}
    for i = #taken, wanted + 1, -1 do
      rest[#rest + 1] = taken[i]
      taken[i] = nil
    end
    line.push(unpack(rest))
    left, front, first_placed = #rest, front - #rest, call('LINDEX', list, line.at(#rest))
    local ids = {}
    for i = #rest, 1, -1 do
      ids[#ids + 1] = rest[i]
    end
    call('HSET', state, 'ready', BETWEEN .. table.concat(ids, BETWEEN) .. BETWEEN)
  end

  -- The next jobs in turn, at most so many.
  local function take(wanted)
    local taken, looks, some = {}, 0, true
    local arranged = not busy and wanted < MOST_READY and placed - left > MOST_READY and MOST_READY
    if ready then
      taken = line.pop(min(wanted, left))
      left, front = left - #taken, front + #taken
      if left == 0 then call('HDEL', state, 'ready') end
    elseif left > 0 then
      -- They are next although they have no place. Their owners are not known yet.
      taken, wanted = busy and {} or line.pop(min(wanted, left)), 0
    end
    local missing = wanted - #taken
    while missing > 0 and looks < 50 and some and not s.clear do
      looks = looks + 1
      local ids, entries, due, whose
      ids, entries, due, some, whose = next_entries(line, missing, busy, #taken < wanted and arranged or nil)
      local out = take_out(ids, entries, due)
      refund_gone(line, ids, out, whose)
      for _, id in ipairs(busy and out or {}) do
        busy.add(whose[id], id)
      end
      if #taken == 0 then
        taken = out
      else
        for _, id in ipairs(out) do
          taken[#taken + 1] = id
        end
      end
      -- An owner whose job has gone is due at once, before the owners of jobs that are arranged behind the claim.
      missing = max(wanted - #taken, #ids - #out)
    end
    if not some and placed >= length and call('LLEN', list) > 0 and not s.clear and not (busy and busy.passed) then
      start_over(line, s) -- The rest has places, and is in no line.
    end
    if #taken > wanted then arrange(taken, wanted) end
    save()
    return taken
  end

  return { take = take, save = save, without_place = length - placed + (ready and 0 or left), unknown = unknown }
end

-- The line where the next jobs, `wanted`, are ready at its front and others follow; nil where they are not. `take` and
-- `save` are as in `open_line`.
local function ready_line(line, wanted, waiting)
  if wanted <= 0 or wanted >= MOST_READY or waiting <= wanted or line.key == '' then return end
  local m = protected('HMGET', line.state, 'ready', 'key', 'clear')
  local ready = not m.err and m[1]
  if not ready or m[2] ~= line.key or m[3] then return end
  local are, ids = are_ready(line, ready, wanted)
  if not are then return end
  local fair = { without_place = 0, save = function() end }
  function fair.take(count)
    local taken = line.pop(count)
    local last = BETWEEN .. (ids[#taken] or '') .. BETWEEN
    if sub(ready, -#last) == last then call('HDEL', line.state, 'ready') end
    -- The claim asks for more if some of them were ids without a job.
    function fair.take(more)
      local opened = open_line(line, 0, {})
      if opened then return opened.take(more) end
      return line.pop(more)
    end
    return taken
  end
  return fair
end
