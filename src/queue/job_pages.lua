-- Prelude of the scripts that list jobs, of either layout: walks over keys that hold ids, newest first, in chunks.
--
-- A source is {kind, key, floor}: a list whose newest ids are at its 'head' or its 'tail', a 'zset', or a 'set', which
-- has no order. What a zset holds below the score `floor`, where there is one, does not count.
--
-- A place is {source, at, seen}. In a list, `seen` ids of it have been seen. In a zset, all with a higher score than
-- `at`, and `seen` of those with that score: which holds while others are added and removed. In a set, `at` is the
-- cursor of its scan, and there is no stopping within an answer.

local function read_ids(source, at, seen, limit)
  local kind, key = source[1], source[2]
  local ids = {}
  if kind == 'zset' then
    local first = seen
    if at ~= '' then first = first + call('ZCOUNT', key, '(' .. at, '+inf') end
    local flat = call('ZREVRANGE', key, first, first + limit - 1, 'WITHSCORES')
    for i = 1, #flat, 2 do
      ids[#ids + 1] = { flat[i], flat[i + 1] }
    end
  elseif kind == 'set' then
    local scan = call('SSCAN', key, at:match('^%d+$') and at or '0', 'COUNT', limit)
    for _, id in ipairs(scan[2]) do
      ids[#ids + 1] = { id }
    end
    return ids, scan[1]
  elseif kind == 'head' then
    for _, id in ipairs(call('LRANGE', key, seen, seen + limit - 1)) do
      ids[#ids + 1] = { id }
    end
  else
    local tail = call('LRANGE', key, -seen - limit, -seen - 1)
    for i = #tail, 1, -1 do
      ids[#ids + 1] = { tail[i] }
    end
  end
  return ids
end

-- Calls visit(id, score, source number, kind) for at most `budget` ids, more only from a set, until it returns true.
-- Returns the place to go on from, or false at the end; and how many ids were seen.
local function walk(sources, place, budget, visit)
  local i, at, seen, left = place[1], place[2], place[3], budget
  while sources[i] do
    if left <= 0 then return { i, at, seen }, budget - left end
    local kind, lowest, asked = sources[i][1], sources[i][3], left
    local ids, cursor = read_ids(sources[i], at, seen, asked)
    local over, full = false, false
    for _, entry in ipairs(ids) do
      local id, score = entry[1], entry[2]
      if lowest and score and tonumber(score) < lowest then
        over = true
        break
      end
      left = left - 1
      if score and score ~= at then
        at, seen = score, 1
      else
        seen = seen + 1
      end
      full = visit(id, score or '', i, kind) or full
      if full and kind ~= 'set' then return { i, at, seen }, budget - left end
    end
    if cursor then
      at, seen, over = cursor, 0, cursor == '0'
    else
      over = over or #ids < asked
    end
    if over then
      i, at, seen = i + 1, '', 0
    end
    if full then return sources[i] and { i, at, seen } or false, budget - left end
  end
  return false, budget - left
end
