-- Lists a page of the jobs in one state, newest first.
-- KEYS 1 prefix
-- ARGV 1 state  2 source, 3 at, 4 seen: the place to go on from; 1, '', 0 is the beginning  5 jobs on the page
--      6 ids to look at, at most  7 job type, or '' for all  8 ms for how long a job may have ended, or ''
-- Returns {jobs, next place or false, ids looked at}: {id, name, attempts made, reason, ms of its time, source, score,
-- last rows of its log}…; what is not there is false.
local LISTS = {
  waiting = { { 'head', P .. 'paused' }, { 'head', P .. 'wait' }, { 'zset', P .. 'prioritized' } },
  active = { { 'head', P .. 'active' } },
  delayed = { { 'zset', P .. 'delayed' }, { 'zset', P .. 'waiting-children' } },
  completed = { { 'zset', P .. 'completed' } },
  failed = { { 'zset', P .. 'failed' } },
}
local state, want, kind, since = ARGV[1], tonumber(ARGV[5]), ARGV[7], tonumber(ARGV[8])
local sources, rows = LISTS[state], {}
local ended = state == 'completed' or state == 'failed'
if since and ended then sources[1][3] = now_ms() - since end

-- When it ended, or is due.
local function time_of(score, source)
  local n = tonumber(score)
  if state == 'delayed' and source == 1 then return text(floor(n / 4096)) end
  return ended and text(n)
end

local start = { tonumber(ARGV[2]), ARGV[3], tonumber(ARGV[4]) }
local place, seen = walk(sources, start, tonumber(ARGV[6]), function(id, score, source)
  local m = protected('HMGET', P .. id, 'name', 'atm', 'failedReason')
  if m.err then m = {} end
  if kind ~= '' and m[1] ~= kind then return end
  local log = protected('LRANGE', P .. id .. ':logs', -3, -1)
  local kept = {}
  if not log.err then
    for _, row in ipairs(log) do
      if #row <= 8192 then kept[#kept + 1] = row end
    end
  end
  local reason = state == 'failed' and m[3] and m[3]:sub(1, 2000) or false
  rows[#rows + 1] = { id, m[1] or false, m[2] or false, reason, time_of(score, source), source, score, kept }
  return #rows >= want
end)
return { rows, place, seen }
