-- Prelude of every script of the BullMQ layout. KEYS 1 is always the queue's prefix, `bull:<queue>:`; the names behind
-- it stand in keys.rs. Functions that a parent in another queue needs take a prefix, the others work on KEYS 1.
--
-- Redis does not roll back: a script first reads every key that it is going to write, so that one of a wrong type
-- ends it before anything has changed.
local call, protected = redis.call, redis.pcall
local floor, min, max = math.floor, math.min, math.max
local P = KEYS[1]

-- A whole number with all of its digits, as Redis itself would write it. Redis before 7.2 takes longer to write a number
-- that a script gives it than to carry out the command, so what is given often is given as text, made once.
local texts = {}
local function text(n)
  local known = texts[n]
  if not known then
    known = string.format('%.0f', n)
    texts[n] = known
  end
  return known
end

-- How to read a key of the queue so that one of a wrong type raises an error.
local READ
local function expect(p, ...)
  READ = READ
    or {
      wait = 'LLEN',
      paused = 'LLEN',
      active = 'LLEN',
      prioritized = 'ZCARD',
      delayed = 'ZCARD',
      completed = 'ZCARD',
      failed = 'ZCARD',
      ['waiting-children'] = 'ZCARD',
      marker = 'ZCARD',
      meta = 'HLEN',
      events = 'XLEN',
      pc = 'STRLEN',
    }
  for _, name in ipairs({ ... }) do
    call(READ[name], p .. name)
  end
end

-- Checks the types of the keys that a script writes when it puts a job into a line, and when a claim ends.
local function expect_lines(p) expect(p, 'meta', 'wait', 'paused', 'prioritized', 'pc', 'delayed', 'marker', 'events') end
local suspects, in_flight
local function expect_active()
  in_flight = call('LLEN', P .. 'active')
  call('XLEN', P .. 'events')
  suspects = call('SCARD', P .. 'stalled')
end
local function expect_claims()
  expect_lines(P)
  expect_active()
end

-- Takes a job that a worker runs off BullMQ's list of stall suspects. The list is mostly empty, which saves the call.
local function clear(id)
  if suspects > 0 then call('SREM', P .. 'stalled', id) end
end

-- Redis's clock, in milliseconds: producers use theirs, we never use ours.
local function now_ms()
  local t = call('TIME')
  return tonumber(t[1]) * 1000 + floor(tonumber(t[2]) / 1000)
end

-- A count that a producer wrote: anything but a sensible number reads as `default`.
local function count(digits, default)
  local n = tonumber(digits or nil)
  if not n or n ~= n or n < 0 or n > 1e15 then return default end
  return floor(n)
end

-- JSON that a producer wrote, as a table without nulls: anything else reads as an empty one.
local function decode(json)
  local fine, value = pcall(cjson.decode, json or '')
  if not fine or type(value) ~= 'table' then return {} end
  for name, field in pairs(value) do
    if field == cjson.null then value[name] = nil end
  end
  return value
end

-- Decodes a job's options, with a cache for the time of one script. Most jobs of a queue share their options apart from
-- `jobId`, which this worker never reads; so the cache ignores that field.
local known_options = {}
local function options(json)
  local common = json and string.gsub(json, '"jobId":"[^"\\]*"', '', 1) or ''
  known_options[common] = known_options[common] or decode(json)
  return known_options[common]
end

-- Counts one more in a job's field, whatever stood there.
local function bump(key, field)
  local n = count(call('HGET', key, field), 0) + 1
  call('HSET', key, field, n)
  return n
end

-- Increments a counter of the queue. A value that Redis cannot increment (text, or the largest integer) restarts at 1.
local function count_up(key)
  local n = protected('INCR', key)
  if type(n) == 'number' then return n end
  call('DEL', key)
  return call('INCR', key)
end

-- Reads the settings in a queue's meta hash, once a script: length of its events, concurrency, whether it is paused,
-- and its rate limit as a number of jobs and a time in ms.
local known_orders = {}
local function orders(p)
  local known = known_orders[p]
  if not known then
    known = call('HMGET', p .. 'meta', 'opts.maxLenEvents', 'concurrency', 'paused', 'max', 'duration')
    known[1] = text(count(known[1], 10000))
    known_orders[p] = known
  end
  return known
end

-- Tells what happened. The first event of a script also shortens the stream to its length.
local streams = {}
local function emit(p, ...)
  local stream = streams[p]
  if stream then return call('XADD', stream, '*', 'event', ...) end
  stream = p .. 'events'
  streams[p] = stream
  call('XADD', stream, 'MAXLEN', '~', orders(p)[1], '*', 'event', ...)
end

-- Announces progress in percent, as Node's `updateProgress` does; the caller writes it into the job.
local function report(id, percent) emit(P, 'progress', 'jobId', id, 'data', percent) end

-- Where a job that may run goes, and whether a worker may take it from there now.
local function target(p)
  local order = orders(p)
  if order[3] then return p .. 'paused', false end
  local limit = tonumber(order[2] or nil)
  return p .. 'wait', not limit or call('LLEN', p .. 'active') < limit
end

local function has_work(p) return call('LLEN', p .. 'wait') > 0 or call('ZCARD', p .. 'prioritized') > 0 end

-- Markers: "0" says look now, "1" says when the next delayed job is due.
local function wake(p) call('ZADD', p .. 'marker', '0', '0') end

local function next_due(p)
  local first = call('ZRANGE', p .. 'delayed', 0, 0, 'WITHSCORES')
  return first[2] and floor(tonumber(first[2]) / 4096)
end

local function wake_when_due(p)
  local due = next_due(p)
  if due then call('ZADD', p .. 'marker', due, '1') end
end

-- Queues a job by its priority: behind its equals, or in front of them.
local function line_up(p, list, id, in_front)
  local priority = count(call('HGET', p .. id, 'priority'), 0)
  if priority > 0 then
    local nth = in_front and 0 or count_up(p .. 'pc') % 4294967296
    call('ZADD', p .. 'prioritized', priority * 4294967296 + nth, id)
  else
    call(in_front and 'RPUSH' or 'LPUSH', list, id)
  end
end

-- Says that a job is ready to run.
local function announce(p, id, from)
  local _, free = target(p)
  if free then wake(p) end
  if from then
    emit(p, 'waiting', 'jobId', id, 'prev', from)
  else
    emit(p, 'waiting', 'jobId', id)
  end
end

-- Makes a job ready to run.
local function make_ready(p, id, in_front, from)
  line_up(p, (target(p)), id, in_front)
  announce(p, id, from)
end

-- Makes a job wait for a time. Jobs that are due in the same millisecond stay in order, up to 4096 of them.
local function put_off(p, id, due)
  local first, last = due * 4096, due * 4096 + 4095
  local taken = call('ZREVRANGEBYSCORE', p .. 'delayed', last, first, 'WITHSCORES', 'LIMIT', 0, 1)
  call('ZADD', p .. 'delayed', taken[2] and min(tonumber(taken[2]) + 1, last) or first, id)
  emit(p, 'delayed', 'jobId', id, 'delay', text(due))
  wake_when_due(p)
end

-- Adds a job the way BullMQ's Queue does; `data` is false where it is there already. What belongs to a parent or a
-- scheduler is the caller's.
local function add_job(id, name, data, opts_json, now)
  local opts = decode(opts_json)
  local delay, priority = count(opts.delay, 0), count(opts.priority, 0)
  call(
    'HSET',
    P .. id,
    'name',
    name,
    'opts',
    opts_json,
    'timestamp',
    now,
    'delay',
    delay,
    'priority',
    priority,
    unpack(data and { 'data', data } or {})
  )
  emit(P, 'added', 'jobId', id, 'name', name)
  if delay > 0 then
    put_off(P, id, now + delay)
  else
    make_ready(P, id, opts.lifo == true and priority == 0)
  end
end

-- Makes a chunk of the delayed jobs that are due ready to run. While the queue is paused they are put with the paused
-- ones: a resume moves that list over whatever waits.
local function promote(now)
  local due = call('ZRANGEBYSCORE', P .. 'delayed', '-inf', (now + 1) * 4096 - 1, 'LIMIT', 0, 100)
  if #due == 0 then return end
  expect_lines(P)
  local list, free = target(P)
  for _, id in ipairs(due) do
    line_up(P, list, id, false)
    call('ZREM', P .. 'delayed', id)
    if call('EXISTS', P .. id) == 1 then call('HSET', P .. id, 'delay', 0) end
    emit(P, 'waiting', 'jobId', id, 'prev', 'delayed')
  end
  if free then wake(P) end
end

-- The mark by which a claim recognises its job. `ats` counts the claims of all workers. So this worker never takes a
-- job for its own once another worker has claimed it, even when that worker's lock has run out.
local function mark(token, ats) return token .. ' ' .. (type(ats) == 'number' and text(ats) or ats or '0') end

-- The token of a worker's claim of a job, if no worker has claimed the job since and the claim precedes `latest`.
-- `tokens` is the prefix of the worker's tokens.
local function claim_of(id, tokens, latest)
  local m = protected('HMGET', P .. id, 'bw:claim', 'ats', 'processedOn')
  if m.err or not m[1] or m[1]:sub(1, #tokens) ~= tokens or count(m[3], 0) >= latest then return end
  local token = m[1]:match('^(.*) %d+$')
  return token and m[1] == mark(token, m[2]) and token
end

local CLAIM = { 'bw:claim', 'ats' }

-- The relation of a claim to a job.
--   'held'     the job is this claim's: its outcome may be written
--   'settled'  this claim has written its outcome before: a resend
--   'gone'     the job no longer exists: this claim ended it without keeping it, or an operator or producer removed it
--   'lost'     another claim holds the job
-- `m` are its fields CLAIM and `holder` what its lock says, where the caller has read them.
local function standing(id, token, m, holder)
  local key = P .. id
  m = m or call('HMGET', key, unpack(CLAIM))
  if
    m[1] == mark(token, m[2])
    and ((holder or call('GET', key .. ':lock')) == token or call('LPOS', P .. 'active', id))
  then
    return 'held'
  end
  if call('HGET', key, 'bw:settled') == token then return 'settled' end
  return call('EXISTS', key) == 1 and 'lost' or 'gone'
end

-- A script's answer for a job that it does not hold. A missing job counts as settled: most likely this claim ended it
-- and its result was not kept.
local function refusal(held) return held == 'lost' and 0 or 1 end

local function lock(id, token, ms)
  call('SET', P .. id .. ':lock', token, 'PX', ms)
  clear(id)
end

-- Taking a job out of the claimed ones is a walk from their end: some 50 ns for each that is passed. A script that takes
-- out many stops when it has walked this far.
local FARTHEST = 20000
-- From which end: the oldest are the last (-1), the newest the first (1).
local nearest = '-1'

-- Whether a claim follows in the same script.
local claims_next = false

-- Ends a claim but for its lock, after its job has been put where it goes; `...` are further fields for the job, each
-- with its value.
local function let_go(id, token, ...)
  call('LREM', P .. 'active', nearest, id)
  clear(id)
  call('HSET', P .. id, 'bw:claim', '', 'bw:settled', token, ...)
  -- A queue with a limit of its own has a free place now, which nothing else announces.
  if orders(P)[2] and has_work(P) then
    local _, free = target(P)
    if free then wake(P) end
  end
  -- The same holds for an owner who had as many jobs in flight as allowed (../owner_in_flight.lua).
  if call('DEL', P .. 'bw:fair:full') == 1 and not claims_next and has_work(P) then wake(P) end
end

local function unlock(id) call('DEL', P .. id .. ':lock') end

-- Further work for a job that goes back to the front of the line (waiting_line.lua).
local returned = function() end

-- Puts a job back as if it had not been claimed.
local function give_back(id, token)
  returned(id)
  line_up(P, (target(P)), id, true)
  let_go(id, token, 'progress', '0')
  unlock(id)
  announce(P, id, 'active')
end

local function expect_log(id) call('LLEN', P .. id .. ':logs') end

-- Merges a repeated line of history into one line with a count. Lines that differ only in numbers count as equal.
local function repeated(row, note)
  local since, before = string.match(row or '', '^(%d+) ({.*})$')
  if not before or #before > 8192 then return end
  local first, second = decode(before), decode(note)
  local function bare(cause) return (string.gsub(tostring(cause), '%w*%d%w*', '#')) end
  for _, field in ipairs({ 'attempt', 'try', 'class' }) do
    if first[field] ~= second[field] then return end
  end
  if not second.delay_ms or bare(first.cause) ~= bare(second.cause) then return end
  return string.format(
    '%s,"times":%.0f,"since":%.0f}',
    string.sub(note, 1, -2),
    count(first.times, 1) + 1,
    count(first.since, tonumber(since))
  )
end

-- Appends to a job's log, which keeps the last 100 rows where the producer names no other number. A wait that costs no
-- attempt, and equals the last one, merges with that row.
local function remember(id, now, note, is_wait)
  if note == '' then return end
  local logs = P .. id .. ':logs'
  local again = is_wait and repeated(call('LINDEX', logs, -1), note)
  if again then return call('LSET', logs, -1, text(now) .. ' ' .. again) end
  local keep = count(options(call('HGET', P .. id, 'opts')).kl, 0)
  call('RPUSH', logs, text(now) .. ' ' .. note)
  call('LTRIM', logs, -(keep > 0 and keep or 100), -1)
end

-- A line of history that no replica wrote: it has the shape of a `Note`.
local function note_of(attempt, class, cause, who)
  return cjson.encode({ attempt = attempt, ['try'] = 0, class = class, cause = cause, replica = who })
end

-- Notes why an attempt failed, in the way that Node reads it back: the reason, and a stack for each attempt.
local function blame(id, reason)
  local m = call('HMGET', P .. id, 'stacktrace', 'opts')
  local stacks, kept = decode(m[1]), {}
  local limit = count(options(m[2]).stackTraceLimit, 100)
  stacks[#stacks + 1] = 'Error: ' .. reason
  for i = max(1, #stacks - limit + 1), #stacks do
    -- Some other values can be read as JSON and not be written.
    if type(stacks[i]) == 'string' then kept[#kept + 1] = stacks[i] end
  end
  call('HSET', P .. id, 'failedReason', reason, 'stacktrace', #kept > 0 and cjson.encode(kept) or '[]')
end
