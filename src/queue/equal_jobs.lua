-- Prelude of the scripts of equal jobs: one of them leads and is run, and the others wait for its result.
-- `equal` is the prefix of their keys: the hash `<equal>:leader` names the claim that leads, and each queue has a zset
-- `<equal>:waiting:<queue>` of the jobs that wait.

-- Jobs that one script wakes at most: it blocks Redis for everyone. Each of them wakes further ones when it ends.
local wakes_left = 50
-- How long jobs are remembered as waiting, ms: each of them comes again far sooner.
local WAITING_MS = 3600000

-- How long the claim that leads still holds, ms; nil where none does. A claim of the BullMQ layout holds as long as its lock,
-- one of the apalis layout as long as its worker's lease. So a leader that ends, goes back or dies needs no further word.
local function leader_left(equal, now)
  local m = protected('HMGET', equal .. ':leader', 'claim', 'token', 'leases', 'worker')
  local claim, token, leases, worker = m[1], m[2], m[3], m[4]
  if m.err or not claim or not token then return end
  if leases and leases ~= '' then
    if protected('HGET', claim, 'claim') ~= token then return end
    local ends = protected('ZSCORE', leases, worker)
    ends = type(ends) == 'string' and tonumber(ends)
    return ends and ends > now and ends - now or nil
  end
  if protected('GET', claim) ~= token then return end
  local left = call('PTTL', claim)
  return left > 0 and left or 1
end

-- Notes that a job waits. A foreign key in the way costs the job its wake-up: it comes by itself a little later.
local function note_waiting(equal, queue, id, now)
  local waiting = equal .. ':waiting:' .. queue
  local noted = protected('ZADD', waiting, now, id)
  if type(noted) == 'number' then call('PEXPIRE', waiting, WAITING_MS) end
end

-- Takes the jobs that have waited longest, at most so many, off those that wait.
local function take_waiting(equal, queue, most)
  local waiting = equal .. ':waiting:' .. queue
  most = math.min(most, wakes_left)
  if most <= 0 then return {} end
  local ids = protected('ZRANGE', waiting, 0, most - 1)
  if ids.err or #ids == 0 then return {} end
  call('ZREM', waiting, unpack(ids))
  wakes_left = wakes_left - #ids
  return ids
end

-- Reads what a completion says of equal jobs, '<how> <keep ms> <prefix> <key of the result>':
--   'new'       the result is kept for them, and they are woken
--   'reused'    the result came from there, so it stays as it is
--   'unusable'  the next of them runs
local function read_equal(text)
  if text == '' then return end
  return text:match('^(%S+) (%d+) (%S+) (.*)$')
end

-- The entry under the result's key, for equal jobs and for the web API.
local function result_entry(id, result, now)
  return '{"jobId":'
    .. cjson.encode(id)
    .. ',"result":'
    .. result
    .. ',"cachedAt":'
    .. string.format('%.0f', now)
    .. '}'
end
