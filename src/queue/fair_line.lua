-- Prelude of the scripts that take from, or put into, a line that is shared fairly between the owners of its jobs
-- (docs/adr/0001-fair-line.md), of either layout.
--
-- The jobs stay in the list of the queue, where producers put them and everybody sees them. Beside it stand, while the
-- list is not empty, behind `state`:
--   `state`          hash: key (payload field that names the owner); front, front_id, last, last_id (first and last job
--                    that has a place, and their places); shift; seq; turn; clear (1: all of this is to be removed);
--                    ready (ids that stand in front of front_id, in turn, and those that were taken with them: their owners'
--                    turns are used already); next (the first of those that stand there); next_left (how many they are)
--   `state:turns`    zset: owner → turn: the round in which its next job is due · ROUND + its order in the round
--   `state:line:<o>` list: `<place>:<id>` of the owner's jobs, the next one first
--   `state:moved`    hash: id → place, of jobs that do not stand where their owner's line says
-- A place is a number that grows by one from job to job, from the front of the list (where jobs are taken) to its back
-- (where producers add them). So a job's distance from the front is its place less that of the first, and a job is taken
-- from any depth by putting one of the first into its place. Others may take from the front, put there, remove in between
-- and add at the back: what a script finds elsewhere than expected, it looks for nearby.
--
-- `line` is {list, state, key, at(distance) → index, range(first, last) → start, stop, from_front(ids), pop(n) → ids,
-- drop(n), push(id) at the front, owner_of(id, known) → owner or nil, bytes read, is_elsewhere(id)}: what the layouts do
-- differently.
local ROUND, FIRST_PLACE = 1048576, 1000000000
-- Ids that one script looks at, at most, for one that is not where it should be.
local NEARBY = 1000
-- Bytes of payloads that one script reads for their owners.
local MOST_READ = 1000000

-- Stands between the ids of `ready`, in front of the first and behind the last.
local BETWEEN = '\0'

-- Whether an id is among those that are ready.
local function is_ready(ready, id) return ready and string.find(ready, BETWEEN .. id .. BETWEEN, 1, true) ~= nil end

-- A whole number as text. Redis before 7.2 takes several times as long to write a number that a script gives it.
local function digits(n) return string.format('%d', n) end

-- A number of ours; 0 where there is none.
local function number_of(text)
  local n = tonumber(text or nil)
  return n and n == n and n or 0
end

-- Removes a chunk of what is kept beside the list. Returns whether nothing is left of it.
local function clear_line(line)
  local turns = call('ZPOPMIN', line.state .. ':turns', 200)
  local keys = {}
  for i = 1, #turns, 2 do
    keys[#keys + 1] = line.state .. ':line:' .. turns[i]
  end
  if #keys > 0 then call('UNLINK', unpack(keys)) end
  if #turns == 400 then return false end
  call('UNLINK', line.state, line.state .. ':moved', line.state .. ':turns')
  return true
end

-- The field that names the owners of a line's jobs, if the owner of this job has a turn to get back: one that is ready is
-- taken without a turn.
local function key_of_refund(state, id)
  local m = protected('HMGET', state, 'key', 'ready')
  return not m.err and m[1] and m[1] ~= '' and not is_ready(m[2], id) and m[1]
end

-- Gives an owner back the turn that a job of it has used without running.
local function refund_turn(line, owner)
  local turns = line.state .. ':turns'
  local turn = number_of(call('HGET', line.state, 'turn'))
  local due = number_of(call('ZSCORE', turns, owner) or turn)
  -- Not before this round: of many jobs that could not start, others who have come since would wait for each.
  call('ZADD', turns, digits(max(due - ROUND, floor(turn / ROUND) * ROUND)), owner)
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
