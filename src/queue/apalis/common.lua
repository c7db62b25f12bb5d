-- Prelude of every script of the apalis layout: put in front of it, so that each is still one EVALSHA.
--
-- Redis does not roll back: a script first reads every key that it is going to write, so that one of a wrong type
-- ends it before anything has changed.
local call, protected = redis.call, redis.pcall
local floor, min, max = math.floor, math.min, math.max

-- Redis's clock, in milliseconds: the only one that decides anything.
local function now_ms()
  local t = call('TIME')
  return tonumber(t[1]) * 1000 + floor(tonumber(t[2]) / 1000)
end

-- The relation of a claim to a job.
--   'held'     the job is this claim's: its outcome may be written
--   'settled'  this claim has written its outcome before: a resend
--   'lost'     another claim holds the job, or the job is gone
local function standing(meta, inflight, id, token)
  local m = call('HMGET', meta, 'claim', 'settled')
  if m[1] == token and call('SISMEMBER', inflight, id) == 1 then return 'held' end
  if m[2] == token then return 'settled' end
  return 'lost'
end

-- A count that a producer wrote: anything but a sensible number reads as `default`.
local function count(text, default)
  local n = tonumber(text or nil)
  if not n or n ~= n or n < 0 or n > 1e9 then return default end
  return floor(n)
end

-- A meta key that is no hash is foreign: it is put aside, not lost, and the job goes on with defaults.
local function read_meta(meta, ...)
  local m = protected('HMGET', meta, ...)
  if m.err then
    call('RENAME', meta, meta .. ':corrupt')
    return {}
  end
  return m
end

-- True if the job was claimed at `since` or later. A missing, malformed or future timestamp counts as false.
local function claimed_since(meta, since, now)
  local at = (tonumber(read_meta(meta, 'locked_at')[1] or nil) or 0) * 1000
  return at >= since and at <= now
end

-- `done` and `dead` are sets to apalis's writer and sorted sets to some of its readers: we go with what is there.
local function is_zset(key)
  local kind = call('TYPE', key).ok
  if kind == 'zset' then return true end
  call('SCARD', key)
  return false
end
local function add_ended(key, zset, id, now)
  if zset then
    call('ZADD', key, floor(now / 1000), id)
  else
    call('SADD', key, id)
  end
end

-- Merges a repeated line of history into one line with a count. Lines that differ only in numbers count as equal.
local function repeated(row, note)
  local since, before = string.match(row or '', '^(%d+) ({.*})$')
  if not before or #before > 8192 then return end
  local fine, first = pcall(cjson.decode, before)
  local readable, second = pcall(cjson.decode, note)
  if not (fine and readable and type(first) == 'table' and type(second) == 'table') then return end
  local function bare(cause) return (string.gsub(tostring(cause), '%w*%d%w*', '#')) end
  for _, field in ipairs({ 'attempt', 'try', 'class' }) do
    if first[field] ~= second[field] then return end
  end
  if not second.delay_ms or bare(first.cause) ~= bare(second.cause) then return end
  local times, from = tonumber(first.times) or 1, tonumber(first.since) or tonumber(since)
  return string.format('%s,"times":%.0f,"since":%.0f}', string.sub(note, 1, -2), times + 1, from)
end

-- Appends to a job's history, which keeps the last 100 lines. A wait that costs no attempt, and equals the last one,
-- merges with that line.
local function remember(history, now, note, is_wait)
  if note == '' then return end
  local at = string.format('%.0f', now) .. ' '
  local again = is_wait and repeated(call('LINDEX', history, -1), note)
  if again then return call('LSET', history, -1, at .. again) end
  call('RPUSH', history, at .. note)
  call('LTRIM', history, -100, -1)
end

-- A line of history that no replica wrote: it has the shape of a `Note`.
local function note_of(attempt, class, cause, who)
  return cjson.encode({ attempt = attempt, ['try'] = 0, class = class, cause = cause, replica = who })
end

-- Removes what is kept of a job, apart from its id in the lists of ended ones.
local function forget(data, meta_prefix, history_prefix, id)
  call('HDEL', data, id)
  call('DEL', meta_prefix .. id, history_prefix .. id, 'ledger:' .. meta_prefix .. id)
end
