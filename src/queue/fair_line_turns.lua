-- Third prelude of these scripts: whose turn it is. The entries of the next jobs leave their owners' lines, and the owners go one
-- round back.

-- Owners that one claim passes over at most.
local MOST_PASSED = 1000

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

-- The first entry of each of these owners: ids, entries, which of the owners each is of, and the owners by id.
local function first_entries(line, owners)
  local lines, ids, entries, of, whose, gone, n = line.state .. ':line:', {}, {}, {}, {}, {}, 0
  for i, owner in ipairs(owners) do
    local entry = call('LPOP', lines .. owner)
    if entry then
      local id = sub(entry, (find(entry, ':', 1, true) or 0) + 1)
      n = n + 1
      ids[n], entries[n], of[n], whose[id] = id, entry, i, owner
    else
      gone[#gone + 1] = owner
    end
  end
  if #gone > 0 then call('ZREM', line.state .. ':turns', unpack(gone)) end
  return ids, entries, of, whose
end

-- The next entries, as of `next_entries`, where each owner that is due is due once: most often, where at least as many
-- owners wait as jobs are wanted.
local function next_of_each(line, owners, scores)
  local ids, entries, of, whose = first_entries(line, owners)
  local due, updates = {}, {}
  for n, i in ipairs(of) do
    due[n], updates[2 * n - 1], updates[2 * n] = scores[i], digits(scores[i] + ROUND), owners[i]
  end
  if #updates > 0 then call('ZADD', line.state .. ':turns', unpack(updates)) end
  return ids, entries, due, true, whose
end

-- The same for all owners of a line, where they are more than `wanted`, at most `most`, and due in one round; nil where they
-- are not. All of them would go one round back. Only differences count, so the line's own turn goes one to the front
-- instead.
local function next_of_all(line, s, wanted, most)
  if s.owners <= wanted or s.owners > most then return end
  local turns = line.state .. ':turns'
  local first = number_of(call('ZRANGE', turns, '0', '0', 'WITHSCORES')[2])
  local last = number_of(call('ZRANGE', turns, '-1', '-1', 'WITHSCORES')[2])
  if floor(first / ROUND) ~= floor(last / ROUND) then return end
  local owners, due = call('ZRANGE', turns, '0', '-1'), {}
  if #owners <= wanted then return end
  local ids, entries, _, whose = first_entries(line, owners)
  for n = 1, #ids do
    due[n] = last - ROUND
  end
  s.turn = s.turn - ROUND
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
