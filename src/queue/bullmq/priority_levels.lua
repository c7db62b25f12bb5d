-- Fourth prelude, of the scripts that take jobs with a priority: within the same priority owners take turns, as in the
-- line of those without one.
--
-- The jobs stay in `prioritized`. Beside it stand, for a priority of which more jobs wait than one claim takes, the turns
-- and the lines of its owners (../fair_line.lua) behind `bw:fair:p<priority>`, whose hash also holds `last`, the score of the last
-- job that has an entry; and `bw:fair:levels`, a zset of these priorities. A member of a sorted set is found by its id, so
-- an entry needs no place: it is `<score>:<id>`. Jobs that were put back have the lowest score of their priority and no
-- entry, and are next.
local LEVELS = P .. 'bw:fair:levels'

-- Removes a chunk of what is kept of a priority.
local function clear_level(level)
  if clear_line({ state = level_state(level) }) then call('ZREM', LEVELS, text(level)) end
end

-- The priority of the first job, or of the first one with a priority behind `after`; nil where none waits. What is kept of more urgent ones is of no use any more.
local function first_level(after)
  local from = after and '(' .. text((after + 1) * LEVEL - 1) or '-inf'
  local first = call('ZRANGEBYSCORE', PRIORITIZED, from, '+inf', 'WITHSCORES', 'LIMIT', 0, 1)
  local level = first[2] and floor(tonumber(first[2]) / LEVEL)
  if not after and call('EXISTS', LEVELS) == 1 then
    local kept = tonumber(call('ZRANGE', LEVELS, 0, 0)[1])
    if kept and (not level or kept < level) then clear_level(kept) end
  end
  return level
end

-- Removes a chunk of what is kept where no job with a priority waits.
local function clear_levels()
  if call('EXISTS', LEVELS) == 1 then first_level() end
end

-- Opens the first priority: at most `most` jobs that have no entry get one. `line` says whose jobs they are, `known` as in
-- `open_line`.
-- Returns nil where its jobs are to be taken as they come; else {take(wanted) → ids, save(), how many jobs have no entry, id
-- whose owner the caller has to find}. The caller takes, or saves.
local function open_level(line, wanted, most, known, busy, after)
  local level = first_level(after)
  if not level or line.key == '' or wanted <= 0 then return end
  local state, lowest, highest = level_state(level), level * LEVEL, '(' .. text((level + 1) * LEVEL)
  local m = protected('HMGET', state, 'key', 'last', 'turn', 'seq')
  local owners = protected('ZCARD', state .. ':turns')
  if m.err or type(owners) ~= 'number' then return end
  if not m[1] and not busy and call('ZCOUNT', PRIORITIZED, lowest, highest) <= wanted then return end
  if m[1] and m[1] ~= line.key then return clear_level(level) end
  local s = { last = tonumber(m[2] or nil) or lowest, turn = number_of(m[3]), seq = number_of(m[4]), owners = owners }
  local of_level = { state = state }
  if not m[1] then
    call('HSET', state, 'key', line.key)
    call('ZADD', LEVELS, level, text(level))
  end

  local gathered, read, unknown = {}, 0, nil
  local rows = call('ZRANGEBYSCORE', PRIORITIZED, '(' .. text(s.last), highest, 'WITHSCORES', 'LIMIT', 0, most)
  for i = 1, #rows, 2 do
    local owner, size = line.owner_of(rows[i], known)
    if not owner then
      unknown = rows[i]
      break
    end
    gather(gathered, owner, rows[i + 1], rows[i])
    s.last, read = tonumber(rows[i + 1]), read + size
    if read > MOST_READ then break end
  end
  queue_up(of_level, s, gathered, 'RPUSH')
  local without = call('ZCOUNT', PRIORITIZED, '(' .. text(s.last), highest)

  local function save()
    if call('ZCOUNT', PRIORITIZED, lowest, highest) == 0 then return clear_level(level) end
    call('HSET', state, 'last', text(s.last), 'turn', s.turn, 'seq', s.seq)
  end

  local function take(count)
    local taken = {}
    for _, id in ipairs(call('ZRANGEBYSCORE', PRIORITIZED, lowest, lowest, 'LIMIT', 0, count)) do
      local owner = busy and (line.owner_of(id, {}) or '')
      if not busy or busy.room(owner) > 0 then
        taken[#taken + 1] = id
        if busy then busy.add(owner, id) end
      else
        busy.passed = true
      end
    end
    if #taken > 0 then call('ZREM', PRIORITIZED, unpack(taken)) end
    local looks, some = 0, true
    while #taken < count and looks < 50 and some do
      looks = looks + 1
      local ids, due, whose, _
      ids, _, due, some, whose = next_entries(of_level, count - #taken, busy)
      local out = {}
      for i, score in ipairs(#ids > 0 and call('ZMSCORE', PRIORITIZED, unpack(ids)) or {}) do
        -- Others may have taken it, removed it or given it another priority.
        if score and floor(tonumber(score) / LEVEL) == level then
          out[#out + 1], taken[#taken + 1] = ids[i], ids[i]
          s.turn = max(s.turn, due[i])
          if busy then busy.add(whose[ids[i]], ids[i]) end
        end
      end
      if #out > 0 then call('ZREM', PRIORITIZED, unpack(out)) end
      refund_gone(of_level, ids, out, whose)
    end
    if not some and #taken < count and not busy then
      -- The others have no entry: there are too many new ones for one script, or the counter of BullMQ has restarted, and
      -- with it the scores.
      if without == 0 then s.last = lowest end
      local rest = call('ZRANGEBYSCORE', PRIORITIZED, lowest, highest, 'WITHSCORES', 'LIMIT', 0, count - #taken)
      for i = 1, #rest, 2 do
        call('ZREM', PRIORITIZED, rest[i])
        taken[#taken + 1] = rest[i]
        if without > 0 then s.last = max(s.last, tonumber(rest[i + 1])) end
      end
    end
    save()
    return taken
  end

  return { take = take, save = save, without_place = without, unknown = unknown, lowest = lowest, level = level }
end

-- Takes the next of them, at most so many, beside `others` that the claim has taken. Returns the ids, and the score that each has when it is put back, by id.
local function take_prioritized(level, line, wanted, busy, others)
  local taken, scores, after = {}, {}, nil
  for _ = 1, 4 do
    local left = wanted - #taken
    if left <= 0 then break end
    local some = {}
    if not level then
      level = open_level(line, left, 64, {}, busy, after)
      if level and level.without_place > 0 and #taken + others > 0 then
        -- The next claim gives them their entries first.
        level.save()
        break
      end
    end
    if level then
      some = level.take(left)
      -- Owners of the first priority may have as many jobs in flight as they may: those behind are not held up.
      if busy and #some < left then after = level.level end
      for _, id in ipairs(some) do
        taken[#taken + 1], scores[id] = id, text(level.lowest)
      end
    else
      local first = first_level()
      if not first or busy then break end
      local count = min(left, call('ZCOUNT', PRIORITIZED, first * LEVEL, '(' .. text((first + 1) * LEVEL)))
      local popped = call('ZPOPMIN', PRIORITIZED, max(1, count))
      for i = 1, #popped, 2 do
        some[#some + 1] = popped[i]
        taken[#taken + 1], scores[popped[i]] = popped[i], popped[i + 1]
      end
    end
    level = nil
    if #some == 0 and not after then break end
  end
  return taken, scores
end
