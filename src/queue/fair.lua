-- Prelude of the scripts that take from, or put into, a line that is shared fairly between the owners of its jobs
-- (docs/adr/0001-fair-line.md), of either layout.
--
-- The jobs stay in the list of the queue, where producers put them and everybody sees them. Beside it stand, while the
-- list is not empty, behind `state`:
--   `state`          hash: key (payload field that names the owner); front, front_id, last, last_id (first and last job
--                    that has a place, and their places); shift; seq; turn; clear (1: all of this is to be removed)
--   `state:turns`    zset: owner → turn: the round in which its next job is due · ROUND + its order in the round
--   `state:line:<o>` list: `<place>:<id>` of the owner's jobs, the next one first
--   `state:moved`    hash: id → place, of jobs that do not stand where their owner's line says
-- A place is a number that grows by one from job to job, from the front of the list (where jobs are taken) to its back
-- (where producers add them). So a job's distance from the front is its place less that of the first, and a job is taken
-- from any depth by putting one of the first into its place. Others may take from the front, put there, remove in between
-- and add at the back: what a script finds elsewhere than expected, it looks for nearby.
--
-- `line` is {list, state, key, at(distance) → index, range(first, last) → start, stop, from_front(ids), pop(n) → ids,
-- push(id), owner_of(id, known) → owner or nil, bytes read, is_elsewhere(id)}: what the layouts do differently.
local ROUND, FIRST_PLACE = 1048576, 1000000000
-- Ids that one script looks at, at most, for one that is not where it should be.
local NEARBY = 1000
-- Longest name of an owner, bytes: longer ones are cut.
local LONGEST_OWNER = 128
-- Bytes of payloads that one script reads for their owners.
local MOST_READ = 1000000

-- A number of ours; 0 where there is none.
local function number_of(digits)
  local n = tonumber(digits or nil)
  return n and n == n and n or 0
end
local function digits_of(n) return string.format('%.0f', n) end

-- How deep within objects and lists of a JSON text its end stands.
local function depth_of(json)
  local bare = string.gsub(string.gsub(json, '\\.', ''), '"[^"]*"', '')
  local _, opened = string.gsub(bare, '[{%[]', '')
  local _, closed = string.gsub(bare, '[}%]]', '')
  return opened - closed
end

-- The value of a field of a JSON object, `depth` objects deep, as the text that names an owner; '' where there is none.
-- The payload is not decoded: it may be large, and anything may stand in it. `quoted` is the field's name in quotes.
local find, byte, sub, match = string.find, string.byte, string.sub, string.match
local function owner_in(json, quoted, depth)
  local from = 1
  for _ = 1, 20 do
    local first, last = find(json, quoted, from, true)
    if not first then return '' end
    local before = byte(json, first - 1)
    local is_field = before == 44 or before == 123 -- , {
    if not is_field then is_field = find(sub(json, max(1, first - 64), first - 1), '[{,]%s*$') end
    local value = is_field and match(json, '^%s*:%s*()', last + 1)
    if value then
      local brace, bracket = find(json, '{', 2, true), find(json, '[', 2, true)
      local plain = depth == 1 and (not brace or brace > first) and (not bracket or bracket > first)
      if plain or depth_of(sub(json, 1, first - 1)) == depth then
        local text
        if byte(json, value) == 34 then -- "
          text = match(sub(json, value + 1, value + LONGEST_OWNER), '^[^"]*')
        else
          text = match(sub(json, value, value + LONGEST_OWNER - 1), '^-?%d[%d.eE+-]*')
        end
        return text or ''
      end
    end
    from = last + 1
  end
  return ''
end

-- Removes a chunk of what is kept beside the list. Returns whether nothing is left of it.
local function clear_line(line)
  local turns = call('ZPOPMIN', line.state .. ':turns', 200)
  local keys = {}
  for i = 1, #turns, 2 do keys[#keys + 1] = line.state .. ':line:' .. turns[i] end
  if #keys > 0 then call('UNLINK', unpack(keys)) end
  if #turns == 400 then return false end
  call('UNLINK', line.state, line.state .. ':moved', line.state .. ':turns')
  return true
end

-- Gives an owner back the turn that a job of it has used without running.
local function refund_turn(line, owner)
  local turns = line.state .. ':turns'
  local turn = number_of(call('HGET', line.state, 'turn'))
  local due = number_of(call('ZSCORE', turns, owner) or turn)
  -- Not before this round: of many jobs that could not start, others who have come since would wait for each.
  call('ZADD', turns, digits_of(max(due - ROUND, floor(turn / ROUND) * ROUND)), owner)
end

-- The ids of a list from one distance to another, the nearest to the front first.
local function ids_between(line, first, last)
  if last < first then return {} end
  local ids = call('LRANGE', line.list, line.range(first, last))
  line.from_front(ids)
  return ids
end

-- At which of the distances `first` … `last` an id stands.
local function distance_of(line, id, first, last)
  first = max(0, first)
  for i, other in ipairs(ids_between(line, first, last)) do
    if other == id then return first + i - 1 end
  end
end

-- Where the line's known jobs stand now: the list may have changed since the last script. `s` is the line's state.
-- Returns the front's place, how many jobs at the front have none, and at which distance those without a place begin at
-- the back; nil where that cannot be told.
local function find_places(line, s, length)
  local front, unplaced = s.front, 0
  if s.ids[1] ~= s.front_id then
    local at = distance_of(line, s.front_id, 1, NEARBY)
    if at then
      unplaced = at -- Some were put in front of it.
    else
      -- It was taken by others: the place of one of the first is looked up in its owner's line.
      for i = 1, min(16, #s.ids) do
        local id, place = s.ids[i], call('HGET', line.state .. ':moved', s.ids[i])
        local owner = line.owner_of(id, {})
        for _, entry in ipairs(not place and owner and call('LRANGE', line.state .. ':line:' .. owner, 0, 63) or {}) do
          local entry_place, entry_id = string.match(entry, '^(%-?%d+):(.*)$')
          if entry_id == id then place = entry_place end
        end
        if place then
          front, unplaced = number_of(place), i - 1
          break
        end
        if i == 16 or i == #s.ids then return end
      end
    end
    front = front - unplaced
  end
  local guess = s.last - front - s.shift
  if guess >= 0 and call('LINDEX', line.list, line.at(guess)) == s.last_id then return front, unplaced, guess + 1 end
  -- Some in between have been removed.
  local at = distance_of(line, s.last_id, min(guess, length) - NEARBY, min(guess, length))
  if not at then return end
  s.shift = s.last - front - at
  return front, unplaced, at + 1
end

-- Opens the line: what is in the list and has no place gets one, at most `most` jobs at its back.
-- `known` holds owners of jobs whose payload is too large to be read here, by id.
-- Returns nil where the list is to be taken from as it is, and then whether there is more to clear; else {take, how many
-- jobs have no place, id whose owner the caller has to find}.
local function open_line(line, now, most, known)
  local list, state, turns, lines = line.list, line.state, line.state .. ':turns', line.state .. ':line:'
  local m = protected('HMGET', state, 'key', 'front', 'front_id', 'last', 'last_id', 'shift', 'seq', 'turn', 'clear')
  if m.err or type(protected('ZCARD', turns)) ~= 'number' then return end
  local has_moved = protected('HLEN', state .. ':moved')
  if type(has_moved) ~= 'number' then return end
  local length = call('LLEN', list)
  if m[1] and (length == 0 or m[1] ~= line.key or m[9]) then return nil, not clear_line(line) end
  if line.key == '' or length == 0 then return end
  local s = {
    front = number_of(m[2]), front_id = m[3], last = tonumber(m[4] or nil), last_id = m[5], shift = number_of(m[6]),
    seq = number_of(m[7]), turn = number_of(m[8]), ids = ids_between(line, 0, 63),
  }
  local fresh = not m[1]
  if fresh then call('HSET', state, 'key', line.key) end

  -- Something has changed the list in a way that its places do not tell: they are given again.
  local function start_over()
    s.clear = true
    call('HSET', state, 'clear', '1')
  end

  local function queue_up(owner, entries, in_front)
    call(in_front and 'LPUSH' or 'RPUSH', lines .. owner, unpack(entries))
    if call('ZADD', turns, 'NX', digits_of(floor(s.turn / ROUND) * ROUND + s.seq % ROUND), owner) == 1 then
      s.seq = s.seq + 1
    end
  end

  local front, unplaced, placed = FIRST_PLACE, 0, 0
  if s.last then
    front, unplaced, placed = find_places(line, s, length)
    if not front then
      start_over()
      return nil, true
    end
  end

  -- What was put at the front (given back, recovered, lifo) is next in its owner's line.
  local in_front = unplaced > 0 and ids_between(line, 0, unplaced - 1) or {}
  for i = unplaced, 1, -1 do
    queue_up(line.owner_of(in_front[i], known) or '', { digits_of(front + i - 1) .. ':' .. in_front[i] }, true)
  end

  -- The next jobs without a place get one, and go to their owners' lines.
  local unknown
  if placed < length and most > 0 then
    local place, read, owners, of = s.last and s.last or front - 1, 0, {}, {}
    local ids = ids_between(line, placed, placed + most - 1)
    for i = 1, #ids do
      local id = ids[i]
      local owner, size = line.owner_of(id, known)
      if not owner then
        unknown = id
        break
      end
      place, read, placed = place + 1, read + size, placed + 1
      local entries = of[owner]
      if not entries then
        entries = {}
        of[owner], owners[#owners + 1] = entries, owner
      end
      entries[#entries + 1] = digits_of(place) .. ':' .. id
      s.last_id = id
      if read > MOST_READ then break end
    end
    for _, owner in ipairs(owners) do queue_up(owner, of[owner], false) end
    s.last = place
  end

  local function save()
    local first_id = call('LINDEX', list, line.at(0))
    if not first_id then
      clear_line(line)
    elseif s.last and not s.last_id then
      start_over() -- The last job was taken by its other copy.
    elseif s.last then
      call('HSET', state, 'front', digits_of(front), 'front_id', first_id, 'last', digits_of(s.last), 'last_id', s.last_id,
        'shift', digits_of(s.shift), 'seq', digits_of(s.seq), 'turn', digits_of(s.turn))
    end
  end
  save()

  -- Whose turn it is, at most so often: owners, and how many jobs of each. Owners without jobs have none.
  local function choose(wanted)
    local due = call('ZRANGE', turns, 0, wanted - 1, 'WITHSCORES')
    local order, counts = {}, {}
    local scores, owners = {}, {}
    for i = 1, #due, 2 do owners[#owners + 1], scores[#scores + 1] = due[i], tonumber(due[i + 1]) end
    for _ = 1, #owners == 1 and 0 or wanted do
      local best
      for i = 1, #owners do
        if not best or scores[i] < scores[best] then best = i end
        -- Those behind have not been chosen yet, and are due later still.
        if not counts[owners[i]] then break end
      end
      if not best then break end
      if not counts[owners[best]] then order[#order + 1] = best end
      counts[owners[best]] = (counts[owners[best]] or 0) + 1
      scores[best] = scores[best] + ROUND
    end
    if #owners == 1 then order, counts[owners[1]] = { 1 }, wanted end
    return owners, due, order, counts
  end

  -- The next entries in turn, at most so many, out of their owners' lines.
  local function next_entries(wanted)
    local entries, updates, gone = {}, {}, {}
    local owners, due, order, counts = choose(wanted)
    for _, nth in ipairs(order) do
      local owner, score = owners[nth], tonumber(due[2 * nth])
      local got = call('LPOP', lines .. owner, counts[owner]) or {}
      if #got == 0 then
        gone[#gone + 1] = owner
      else
        updates[#updates + 1], updates[#updates + 2] = digits_of(score + #got * ROUND), owner
        for k, entry in ipairs(got) do
          local place, id = string.match(entry, '^(%-?%d+):(.*)$')
          entries[#entries + 1] = { id = id, place = number_of(place), turn = score + (k - 1) * ROUND }
        end
      end
    end
    if #gone > 0 then call('ZREM', turns, unpack(gone)) end
    if #updates > 0 then call('ZADD', turns, unpack(updates)) end
    table.sort(entries, function(a, b) return a.turn < b.turn end)
    return entries, #order > 0
  end

  -- At which distance a job stands; nil where it is not in the list any more.
  local function find(entry)
    local guess = entry.place - front - s.shift
    if guess >= 0 and call('LINDEX', list, line.at(guess)) == entry.id then return guess end
    local at = distance_of(line, entry.id, guess - NEARBY, guess + NEARBY)
    if at then
      s.shift = entry.place - front - at
    elseif not line.is_elsewhere(entry.id) then
      start_over()
    end
    return at
  end

  -- Takes jobs out of the list, wherever they stand: the first ones take the places of those behind them.
  local function take_out(entries)
    local first_ids, near = ids_between(line, 0, #entries - 1), {}
    -- A list can hold an id twice: its first copy is the one that is taken.
  for i, id in ipairs(first_ids) do near[id] = near[id] or i end
    if has_moved > 0 and #entries > 0 then
      local ids = {}
      for i, entry in ipairs(entries) do ids[i] = entry.id end
      for i, place in ipairs(call('HMGET', state .. ':moved', unpack(ids))) do
        if place then entries[i].place = number_of(place) end
      end
      call('HDEL', state .. ':moved', unpack(ids))
    end
    local found, taken, is_taken = {}, {}, {}
    for _, entry in ipairs(entries) do
      local distance = near[entry.id] and near[entry.id] - 1 or not is_taken[entry.id] and find(entry)
      if distance and not is_taken[entry.id] then
        found[#found + 1], taken[#taken + 1], is_taken[entry.id] = { entry, distance }, entry.id, true
        s.turn = max(s.turn, entry.turn)
      end
    end
    if #taken == 0 then return taken end
    local popped, fillers, moved = line.pop(#taken), {}, {}
    for _, id in ipairs(popped) do
      if is_taken[id] == true then
        is_taken[id] = 'popped'
      else
        fillers[#fillers + 1] = id -- Not taken, or a second copy.
      end
    end
    for _, pair in ipairs(found) do
      local distance = pair[2] - #taken
      if distance >= 0 then
        local filler = table.remove(fillers)
        if not filler then
          start_over() -- The list has fewer jobs than its places say.
          break
        end
        call('LSET', list, line.at(distance), filler)
        if filler == s.last_id then s.last_id = nil end
        if pair[1].id == s.last_id then s.last_id = filler end
        moved[#moved + 1], moved[#moved + 2] = filler, digits_of(pair[1].place)
      end
    end
    front = front + #taken
    if #moved > 0 then
      call('HSET', state .. ':moved', unpack(moved))
      has_moved = has_moved + #moved
    end
    return taken
  end

  -- The next jobs in turn, at most so many.
  local function take(wanted)
    local taken, looks, some = {}, 0, true
    while #taken < wanted and looks < 50 and some and not s.clear do
      looks = looks + 1
      local entries
      entries, some = next_entries(wanted - #taken)
      for _, id in ipairs(take_out(entries)) do taken[#taken + 1] = id end
    end
    if not some and placed >= length and call('LLEN', list) > 0 and not s.clear then
      start_over() -- The rest has places, and is in no line.
    end
    save()
    return taken
  end

  return { take = take, without_place = length - placed, unknown = unknown }
end

