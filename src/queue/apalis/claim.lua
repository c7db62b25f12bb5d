-- Claims jobs into free slots: promotes what is due, takes from the head of the queue, counts the attempt.
-- KEYS 1 active  2 scheduled  3 inflight of this worker  4 data  5 leases  6 paused  7 session of this worker
-- ARGV 1 worker  2 claim number  3 how many  4 bytes of payloads after which no further job is taken
--      5 meta prefix  6 attempts where the producer named none  7 inflight prefix
-- Returns false without a lease (renew first), else a list of {id, payload|false, attempt, max_attempts, waited_ms,
-- 1 for a first claim, deliveries lost so far}.
-- A number that was carried out before returns what is left of it, and claims nothing more.
local active, scheduled, inflight, data, leases = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local worker, number, want, most_bytes = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local meta_prefix, default_max, inflight_prefix = ARGV[5], tonumber(ARGV[6]), ARGV[7]
local token = worker .. ':' .. ARGV[2]
local now = now_ms()

if tonumber(call('ZSCORE', leases, worker) or 0) <= now then return false end
call('LLEN', active)
call('ZCARD', scheduled)
call('SCARD', inflight)
call('HLEN', data)

local function meta_of(id)
  return read_meta(meta_prefix .. id, 'attempts', 'max_attempts', 'waited', 'claim', 'locked_by', 'status', 'lost')
end

local rows, bytes = {}, 0
local function add_row(id, attempt, m)
  local payload = call('HGET', data, id)
  bytes = bytes + (payload and #payload or 0)
  rows[#rows + 1] = { id, payload, attempt, max(1, count(m[2], default_max)), count(m[3], 0), m[4] and 0 or 1, count(m[7], 0) }
end

local last = tonumber(call('HGET', KEYS[7], 'claim') or 0)
if number <= last then
  for _, id in ipairs(call('SMEMBERS', inflight)) do
    local m = meta_of(id)
    if m[4] == token then add_row(id, count(m[1], 1), m) end
  end
  return rows
end
call('HSET', KEYS[7], 'claim', number)
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
    and protected('SISMEMBER', inflight_prefix .. holder, id) == 1
end

while #rows < want and bytes < most_bytes do
  local id = call('LPOP', active)
  if not id then break end
  local m = meta_of(id)
  if not is_double(id, m) then
    local attempt = count(m[1], 0) + 1
    call('SADD', inflight, id)
    call('HSET', meta_prefix .. id, 'status', 'Running', 'attempts', attempt, 'claim', token, 'progress', 10,
      'locked_by', worker, 'locked_at', floor(now / 1000))
    add_row(id, attempt, m)
  end
end
return rows
