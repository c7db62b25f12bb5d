-- Lists a page of the jobs in one state, newest first.
-- KEYS 1 active  2 scheduled  3 done  4 dead  5 ended:done  6 ended:dead  7 data  8 leases  9 workers
-- ARGV 1 state  2 source, 3 at, 4 seen: the place to go on from; 1, '', 0 is the beginning  5 jobs on the page
--      6 ids to look at, at most  7 job type, or '' for all  8 ms for how long a job may have ended, or ''
--      9 meta prefix  10 history prefix  11 inflight prefix  12 bytes of payloads after which no further job is read
--      13 bytes of the largest payload that is read here: whether a larger one is of the type is for the caller to see
-- Returns {jobs, next place or false, ids looked at}: {id, type, attempts, reason, ms of its time, source, score, last
-- lines of its history}…; what is not there is false.
local state, want, wanted, since = ARGV[1], tonumber(ARGV[5]), ARGV[7], tonumber(ARGV[8])
local meta_prefix, history_prefix, most_bytes = ARGV[9], ARGV[10], tonumber(ARGV[12])
local oldest = since and now_ms() - since

-- Ids that ended under a stock worker stand in its own list only, behind ours.
local function ended_ids(ours, theirs)
  local list, zset = { { 'zset', ours, oldest } }, is_zset(theirs)
  if call(zset and 'ZCARD' or 'SCARD', theirs) > call('ZCARD', ours) then
    list[2] = { zset and 'zset' or 'set', theirs }
  end
  return list, ours
end

local function held_ids()
  local list, known = {}, {}
  for _, workers in ipairs({ KEYS[8], KEYS[9] }) do
    for _, worker in ipairs(call('ZRANGE', workers, 0, 999)) do
      if not known[worker] then list[#list + 1] = { 'set', ARGV[11] .. worker } end
      known[worker] = true
    end
  end
  return list
end

local sources, ours
if state == 'waiting' then
  sources = { { 'tail', KEYS[1] } }
elseif state == 'delayed' then
  sources = { { 'zset', KEYS[2] } }
elseif state == 'active' then
  sources = held_ids()
elseif state == 'completed' then
  sources, ours = ended_ids(KEYS[5], KEYS[3])
else
  sources, ours = ended_ids(KEYS[6], KEYS[4])
end

-- Reads the type from a foreign producer's payload without decoding it: the type is its first or last member. Also
-- returns whether the type is still unknown.
local bytes, largest = 0, tonumber(ARGV[13])
local function type_of(id)
  local size = call('HSTRLEN', KEYS[7], id)
  bytes = bytes + size
  if size > largest then return false, true end
  local payload = call('HGET', KEYS[7], id)
  if not payload then return false end
  local kind = payload:sub(1, 300):match('^%s*{%s*"type"%s*:%s*"([^"\\]*)"')
    or payload:sub(-300):match('"type"%s*:%s*"([^"\\]*)"%s*}%s*$')
  if not kind and #payload < 65536 then
    bytes = bytes + 15 * #payload -- Decoding takes that much longer than reading.
    local fine, envelope = pcall(cjson.decode, payload)
    kind = fine and type(envelope) == 'table' and envelope.type
  end
  return type(kind) == 'string' and kind
end

local function reason_of(m)
  if m[2] and m[2] ~= '' then return m[2]:sub(1, 2000) end
  local fine, result = pcall(cjson.decode, m[3] and #m[3] < 65536 and m[3] or '')
  return fine and type(result) == 'table' and type(result.Err) == 'string' and result.Err:sub(1, 2000)
end

-- When it ended, or is due, in ms.
local function time_of(score, source, done_at)
  if state == 'delayed' then return tonumber(score) * 1000 end
  if ours and source == 1 then return tonumber(score) end
  return ours and tonumber(done_at or nil) and tonumber(done_at) * 1000
end

local rows = {}
local start = { tonumber(ARGV[2]), ARGV[3], tonumber(ARGV[4]) }
local place, seen = walk(sources, start, tonumber(ARGV[6]), function(id, score, source)
  if ours and source > 1 and call('ZSCORE', ours, id) then return end
  local m = protected('HMGET', meta_prefix .. id, 'attempts', 'error', 'result', 'done_at', 'type')
  if m.err then m = {} end
  local time = time_of(score, source, m[4])
  local kind, unread = m[5] or false, false
  if not kind then
    kind, unread = type_of(id)
  end
  if (wanted == '' or kind == wanted or unread) and not (ours and oldest and (time or 0) < oldest) then
    local history = protected('LRANGE', history_prefix .. id, -3, -1)
    rows[#rows + 1] = {
      id,
      kind,
      m[1] or false,
      state == 'failed' and reason_of(m),
      time and string.format('%.0f', time) or false,
      source,
      score,
      history.err and {} or history,
    }
  end
  return #rows >= want or bytes >= most_bytes
end)
return { rows, place, seen }
