-- Returns the position of a job in the line.
-- KEYS 1 prefix
-- ARGV 1 job id, or ''  2 field of the payload that names a job's owner, or ''
-- Returns what ../line_position.lua says.
local id, line = ARGV[1], wait_line(ARGV[2])
line.rank = -1
if orders(P)[3] then line.list = P .. 'paused' end

-- How many of its owner's jobs stand before a job of this priority that has come since the last claim. Looks at a bounded
-- number of those.
local function rank_among_new(state, owner, highest)
  local last = call('HGET', state, 'last')
  local same, read = call('LLEN', state .. ':line:' .. owner), 0
  for _, other in ipairs(call('ZRANGEBYSCORE', PRIORITIZED, '(' .. (last or '-inf'), highest, 'LIMIT', 0, 256)) do
    if other == id then return same end
    local of, size = line.owner_of(other, {})
    read = read + (size or 0)
    if of == owner then same = same + 1 end
    if read > MOST_READ then return end
  end
end

-- The position of a job with a priority: behind those without one and those of more urgent priorities, in its owner's
-- turn within its own.
local function standing_of_prioritized(score)
  local level = floor(score / LEVEL)
  local state, lowest, highest = level_state(level), text(level * LEVEL), '(' .. text((level + 1) * LEVEL)
  local ahead = call('LLEN', line.list) + call('ZCOUNT', PRIORITIZED, '-inf', '(' .. lowest)
  local waiting, owners = call('LLEN', line.list) + call('ZCARD', PRIORITIZED), standing_of(line, '')[3]
  local key = protected('HGET', state, 'key')
  local owner = type(key) == 'string' and key ~= '' and key == line.key and line.owner_of(id, {})
  -- Those that were put back have the lowest score, and are next. Without turns the order is that of the scores.
  if not owner or score == level * LEVEL then
    return { ahead + call('ZCOUNT', PRIORITIZED, lowest, '(' .. text(score)), waiting, owners }
  end
  local rank = rank_in_line(state, owner, id) or rank_among_new(state, owner, highest)
  local before, _, of_level = others_before(state, owner, rank)
  if not before then return { -1, waiting, owners } end
  return { ahead + call('ZCOUNT', PRIORITIZED, lowest, lowest) + before + rank, waiting, max(owners, of_level) }
end

local score = id ~= '' and tonumber(call('ZSCORE', PRIORITIZED, id) or nil)
return score and standing_of_prioritized(score) or standing_of(line, id)
