-- Fourth prelude of these scripts: takes jobs out of the list of the queue, in turn.
--
-- `s` is an opened line: what its state says, and
--   placed        jobs up to the last one that has a place
--   left          jobs at the front that have none; `first_placed` follows them
--   are_ready     whether those are ready
--   has_moved     entries of `state:moved`
--   busy          how many jobs owners may start (owner_in_flight.lua), or nil

-- Writes the line's state. Each claim that opens the line ends with it.
local function save_line(line, s)
  local first_id = s.left > 0 and s.first_placed or call('LINDEX', line.list, line.at(0))
  if not first_id then
    clear_line(line)
  elseif s.last and not s.last_id then
    start_over(line, s) -- The last job was taken by its other copy.
  elseif s.last then
    call(
      'HSET',
      line.state,
      'front',
      digits(s.front + s.left),
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

-- The index at which a job stands, after `gone` jobs of the front were popped; nil where it is not in the list any more.
local function find_entry(line, s, id, place, gone)
  local guess = place - s.front - s.shift - gone
  local index = guess >= 0 and line.at(guess)
  if index and call('LINDEX', line.list, index) == id then return index end
  local at = distance_of(line, id, guess - 16, guess + 16) or distance_of(line, id, guess - NEARBY, guess + NEARBY)
  if at then
    s.shift = place - s.front - gone - at
  elseif not line.is_elsewhere(id) then
    start_over(line, s)
  end
  return at and line.at(at)
end

-- Takes the places of jobs that stand where others were taken from out of `state:moved`. Returns them by id.
local function moved_places(line, s, ids)
  local places, moved = {}, {}
  if s.has_moved == 0 or #ids == 0 then return places end
  for i, place in ipairs(call('HMGET', line.state .. ':moved', unpack(ids))) do
    if place then
      places[ids[i]], moved[#moved + 1] = place, ids[i]
    end
  end
  if #moved > 0 then s.has_moved = s.has_moved - call('HDEL', line.state .. ':moved', unpack(moved)) end
  return places
end

-- Notes the places of jobs that stand where others were taken from: pairs of id and place.
local function add_moved(line, s, moved)
  local places = line.state .. ':moved'
  if #moved == 0 then return end
  if s.has_moved > 0 then
    s.has_moved = s.has_moved + call('HSET', places, unpack(moved))
  else
    -- A packed hash is walked along for each of its fields. One that is too long for it makes a table of it (`queue_up`).
    s.has_moved = call('HSET', places, TOO_LONG_A_NAME, '', unpack(moved)) - call('HDEL', places, TOO_LONG_A_NAME)
  end
end

-- Whether the jobs that were popped are those that are wanted, in their order.
local function are_in_order(popped, ids)
  local seen = {}
  for i, id in ipairs(ids) do
    if popped[i] ~= id or seen[id] then return false end
    seen[id] = true
  end
  return #popped == #ids
end

-- Puts the first jobs, which were popped and stay in line, where the `far` ones stand, and the rest back to the front.
local function fill_gaps(line, s, popped, far)
  local fillers, moved = {}, {}
  for _, id in ipairs(popped) do
    if id then fillers[#fillers + 1] = id end
  end
  for _, job in ipairs(far) do
    local filler = table.remove(fillers)
    call('LSET', line.list, job.index, filler)
    if filler == s.last_id then s.last_id = nil end
    if job.id == s.last_id then s.last_id = filler end
    moved[#moved + 1], moved[#moved + 2] = filler, job.place
  end
  -- For each job that was not found, one of the first jobs stays at the front.
  for i = #fillers, 1, -1 do
    line.push(fillers[i])
    moved[#moved + 1], moved[#moved + 2] = fillers[i], digits(s.front + i - 1)
  end
  add_moved(line, s, moved)
end

-- Takes jobs out of the list, wherever they stand: the first ones take the places of those behind them.
local function take_out(line, s, ids, entries, due)
  local places, popped = moved_places(line, s, ids), line.pop(#ids)
  if are_in_order(popped, ids) then
    for i = 1, #due do
      s.turn = max(s.turn, due[i])
    end
    s.front = s.front + #ids
    return popped
  end
  local near, is_taken, taken, far, number = {}, {}, {}, {}, #popped
  -- A list can hold an id twice: its first copy is the one that is taken.
  for i, id in ipairs(popped) do
    near[id] = near[id] or i
  end
  for i, id in ipairs(ids) do
    local nth, index, place = near[id], nil, nil
    if not nth and not is_taken[id] then
      place = places[id] or match(entries[i], '^%-?%d+')
      index = find_entry(line, s, id, number_of(place), number)
    end
    if not is_taken[id] and (nth or index) then
      taken[#taken + 1], is_taken[id] = id, true
      s.turn = max(s.turn, due[i])
      if nth then
        popped[nth] = false
      else
        far[#far + 1] = { index = index, id = id, place = place }
      end
    end
  end
  s.front = s.front + #taken
  fill_gaps(line, s, popped, far)
  return taken
end

-- Puts those behind the first `wanted` to the front in turn: they are ready for the next claims. The first ones are named as
-- well: one that is given back is taken without a turn again.
local function arrange(line, s, taken, wanted)
  local named, rest = BETWEEN .. table.concat(taken, BETWEEN) .. BETWEEN, {}
  for i = #taken, wanted + 1, -1 do
    rest[#rest + 1] = taken[i]
    taken[i] = nil
  end
  line.push(unpack(rest))
  s.left, s.front, s.are_ready = #rest, s.front - #rest, true
  s.first_placed = call('LINDEX', line.list, line.at(#rest))
  call('HSET', line.state, 'ready', named, 'next', rest[#rest], 'next_left', digits(#rest))
end

-- Takes jobs of the front that have no place, at most so many. Returns them, and how many others are to be taken.
local function take_left(line, s, wanted)
  if s.left == 0 then return {}, wanted end
  -- Those that are not ready are next although they have no place. Their owners are not known yet.
  if s.busy and not s.are_ready then return {}, 0 end
  local taken = line.pop(min(wanted, s.left))
  s.left, s.front = s.left - #taken, s.front + #taken
  if not s.are_ready then return taken, 0 end
  if s.left == 0 then
    call('HDEL', line.state, 'ready', 'next', 'next_left')
  else
    call('HSET', line.state, 'next', call('LINDEX', line.list, line.at(0)), 'next_left', digits(s.left))
  end
  return taken, wanted - #taken
end

-- Takes the next jobs in turn, at most so many, and saves the line.
local function take_next(line, s, wanted)
  -- One that has a place stays behind those that are arranged.
  local most = min(MOST_READY, s.placed - s.left - 1)
  if s.busy or wanted >= most or most < SHORT_LINE then most = nil end
  local taken, missing = take_left(line, s, wanted)
  local whole, looks, some = #taken + missing, 0, true
  while missing > 0 and looks < 50 and some and not s.clear do
    looks = looks + 1
    local ids, entries, due, whose
    if #taken >= whole then most = nil end
    if most then
      ids, entries, due, some, whose = next_of_all(line, s, missing, most)
    end
    if not ids then
      ids, entries, due, some, whose = next_entries(line, missing, s.busy, most)
    end
    local out = take_out(line, s, ids, entries, due)
    refund_gone(line, ids, out, whose)
    for _, id in ipairs(out) do
      if s.busy then s.busy.add(whose[id], id) end
      taken[#taken + 1] = id
    end
    -- An owner whose job has gone is due at once, before the owners of jobs that are arranged behind the claim.
    missing = max(whole - #taken, #ids - #out)
  end
  local is_capped = s.busy and s.busy.passed
  if not some and s.placed >= s.length and not s.clear and not is_capped and call('LLEN', line.list) > 0 then
    start_over(line, s) -- The rest has places, and is in no line.
  end
  if #taken > whole then arrange(line, s, taken, whole) end
  save_line(line, s)
  return taken
end

-- Reads the state of a line; nil where the list is to be taken from as it is, and then whether there is more to clear.
local function read_line(line, busy)
  local state = line.state
  local m =
    protected('HMGET', state, 'key', 'front', 'front_id', 'last', 'last_id', 'shift', 'seq', 'turn', 'clear', 'ready')
  local owners = protected('ZCARD', state .. ':turns')
  if m.err or type(owners) ~= 'number' then return end
  local has_moved = protected('HLEN', state .. ':moved')
  if type(has_moved) ~= 'number' then return end
  local length = call('LLEN', line.list)
  if m[1] and (length == 0 or m[1] ~= line.key or m[9]) then return nil, not clear_line(line) end
  if line.key == '' or length == 0 then return end
  if not m[1] then call('HSET', state, 'key', line.key) end
  return {
    front = number_of(m[2]),
    front_id = m[3],
    last = tonumber(m[4] or nil),
    last_id = m[5],
    shift = number_of(m[6]),
    seq = number_of(m[7]),
    turn = number_of(m[8]),
    ready = m[10],
    owners = owners,
    has_moved = has_moved,
    length = length,
    busy = busy,
    left = 0,
    placed = 0,
  }
end

-- Opens the line: what is in the list and has no place gets one, at most `most` jobs at its back.
-- `known` holds owners of jobs whose payload is too large to be read here, by id; `busy` says how many jobs owners may start
-- (owner_in_flight.lua), or is nil.
-- Returns nil where the list is to be taken from as it is, and then whether there is more to clear; else {take(wanted) →
-- ids, save(), how many jobs have no place, id whose owner the caller has to find}. The caller takes, or saves.
local function open_line(line, most, known, busy)
  local s, clears = read_line(line, busy)
  if not s then return nil, clears end
  local unplaced, unknown = 0, nil
  if s.last then
    s.front, unplaced, s.placed = find_places(line, s, s.length)
    if not s.front then
      start_over(line, s)
      return nil, true
    end
  else
    s.front = FIRST_PLACE
  end
  local ids = ids_between(line, 0, unplaced - 1)
  s.are_ready = unplaced > 0 and not busy and are_ready(s.ready, ids)
  if s.are_ready then
    s.left, s.first_placed = unplaced, s.front_id
  elseif busy or not place_behind_ready(line, s, ids, known) then
    if unplaced > 0 then
      s.left, s.first_placed = place_in_front(line, s, ids, s.front, known)
    end
    if s.ready then call('HDEL', line.state, 'ready', 'next', 'next_left') end
  end
  if s.placed < s.length and most > 0 and (s.are_ready or s.left == 0) then
    s.placed, unknown = place_at_the_back(line, s, s.front, s.placed, most, known)
  end
  return {
    take = function(wanted) return take_next(line, s, wanted) end,
    save = function() save_line(line, s) end,
    without_place = s.length - s.placed + (s.are_ready and 0 or s.left),
    unknown = unknown,
  }
end

-- The line where the next jobs, `wanted`, are ready at its front and others follow; nil where they are not. `take` and
-- `save` are as in `open_line`.
local function ready_line(line, wanted, waiting)
  if wanted <= 0 or wanted >= MOST_READY or waiting <= wanted or line.key == '' then return end
  local m = protected('HMGET', line.state, 'next', 'next_left', 'front_id', 'key', 'clear')
  if m.err or not m[1] or m[4] ~= line.key or m[5] then return end
  local next_id, left, first_placed = m[1], number_of(m[2]), m[3]
  -- Others put jobs in front of all. So those between the next one and the first that has a place are ready.
  if wanted > left then return end
  local ids = ids_between(line, 0, wanted)
  if ids[1] ~= next_id then return end
  for i = 1, wanted do
    if ids[i] == first_placed then return end
  end
  -- If the first that has a place was removed, `open_line` finds out where the others begin.
  if wanted == left and ids[wanted + 1] ~= first_placed then return end
  local fair = { without_place = 0, save = function() end }
  function fair.take(count)
    line.drop(count)
    if ids[count + 1] == first_placed then
      call('HDEL', line.state, 'ready', 'next', 'next_left')
    else
      call('HSET', line.state, 'next', ids[count + 1], 'next_left', digits(left - count))
    end
    for i = #ids, count + 1, -1 do
      ids[i] = nil
    end
    -- The claim asks for more if some of them were ids without a job.
    function fair.take(more)
      local opened = open_line(line, 0, {})
      if opened then return opened.take(more) end
      return line.pop(more)
    end
    return ids
  end
  return fair
end
