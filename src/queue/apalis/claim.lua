-- Claims jobs into free slots: promotes what is due, takes from the head of the queue, counts the attempt.
-- KEYS 1 active  2 scheduled  3 inflight of this worker  4 data  5 leases  6 paused
-- ARGV 1 worker  2 claim token  3 how many  4 resend 0|1  5 meta prefix  6 attempts where the producer named none
--      7 inflight prefix
-- Returns false without a lease (renew first), else a list of {id, payload|false, attempt, max_attempts, waited_ms}.
local active, scheduled, inflight, data, leases = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local worker, token, want, resend = ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4] == '1'
local meta_prefix, default_max, inflight_prefix = ARGV[5], tonumber(ARGV[6]), ARGV[7]
local now = now_ms()

if tonumber(call('ZSCORE', leases, worker) or 0) <= now then return false end

-- A meta key that is no hash is foreign: it is put aside, not lost, and the job runs with defaults.
local function read_meta(id)
  local m = pcall('HMGET', meta_prefix .. id, 'attempts', 'max_attempts', 'waited', 'claim', 'locked_by', 'status')
  if m.err then
    call('RENAME', meta_prefix .. id, meta_prefix .. id .. ':corrupt')
    return {}
  end
  return m
end

local function row(id, attempt, m)
  return { id, call('HGET', data, id), attempt, math.max(1, count(m[2], default_max)), count(m[3], 0) }
end

local rows = {}
if resend then
  for _, id in ipairs(call('SMEMBERS', inflight)) do
    local m = read_meta(id)
    if m[4] == token then rows[#rows + 1] = row(id, count(m[1], 1), m) end
  end
  if #rows > 0 then return rows end
end
if call('EXISTS', KEYS[6]) == 1 then return rows end

local due = call('ZRANGEBYSCORE', scheduled, '-inf', string.format('%.3f', now / 1000), 'LIMIT', 0, 1000)
if #due > 0 then
  call('RPUSH', active, unpack(due))
  call('ZREM', scheduled, unpack(due))
end

-- An id that is in the queue a second time while somebody runs it, or after it was completed, is dropped: to run
-- it again would be to pay again.
local function is_double(id, m)
  if m[6] == 'Done' then return true end
  local holder = m[5]
  return m[4] and m[4] ~= '' and holder and tonumber(call('ZSCORE', leases, holder) or 0) > now
    and call('SISMEMBER', inflight_prefix .. holder, id) == 1
end

for _, id in ipairs(call('LPOP', active, want) or {}) do
  local m = read_meta(id)
  if not is_double(id, m) then
    local attempt = count(m[1], 0) + 1
    call('SADD', inflight, id)
    call('HSET', meta_prefix .. id, 'status', 'Running', 'attempts', attempt, 'claim', token, 'progress', 10,
      'locked_by', worker, 'locked_at', floor(now / 1000))
    rows[#rows + 1] = row(id, attempt, m)
  end
end
return rows
