-- Claims jobs into free slots: promotes what is due, takes from the head of the queue, counts the attempt.
-- KEYS 1 active  2 scheduled  3 inflight of this worker  4 data  5 leases  6 paused  7 session of this worker  8 fair
-- ARGV 1 worker  2 claim number  3 how many  4 bytes of payloads after which no further job is taken
--      5 bytes of payloads that the answer may hold  6 meta prefix  7 attempts where the producer named none
--      8 inflight prefix  9 field of the payload that names a job's owner, or '' where the line is not shared fairly
--      10 are jobs claimed while some have no place in that line yet 0|1
--      11 jobs that an owner may have in flight, 0: any number  12 lease ttl ms
-- Returns false without a lease (renew first), 0 when the number was carried out before (`claim_resend.lua` returns the jobs
-- that are left of it), how many jobs need their places first (the number is not used up), else a list of rows.
local active, scheduled, inflight, data, leases = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local worker, number, want, most_bytes = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local meta_prefix, inflight_prefix = ARGV[6], ARGV[8]
local token = worker .. ':' .. ARGV[2]
local now = now_ms()

if tonumber(call('ZSCORE', leases, worker) or 0) <= now then return false end
call('LLEN', active)
call('ZCARD', scheduled)
call('SCARD', inflight)
call('HLEN', data)

if number <= tonumber(call('HGET', KEYS[7], 'claim') or 0) then return 0 end
local is_paused = call('EXISTS', KEYS[6]) == 1
local line, fair, clears = wait_line(active, data, scheduled, KEYS[8], meta_prefix, ARGV[9]), nil, nil
function line.is_in_flight(id)
  local m = protected('HMGET', meta_prefix .. id, 'claim', 'locked_by')
  return not m.err and m[1] and m[1] ~= '' and m[2] and tonumber(call('ZSCORE', leases, m[2]) or 0) > now
end
local busy = open_busy(line, tonumber(ARGV[11]))
if not is_paused then
  local due = call('ZRANGEBYSCORE', scheduled, '-inf', string.format('%.3f', now / 1000), 'LIMIT', 0, 250)
  if #due > 0 then
    call('RPUSH', active, unpack(due))
    call('ZREM', scheduled, unpack(due))
  end
  local waiting = call('LLEN', active)
  if not busy then fair = ready_line(line, want, waiting) end
  if not fair and ((waiting > want or busy and waiting > 0) and line.key ~= '' or call('EXISTS', line.state) == 1) then
    -- Most of a short line is claimed in the script that looks for its owners.
    if waiting <= 4 * want then line.payloads = {} end
    fair, clears = open_line(line, 128, {}, busy)
    if ARGV[10] == '0' and (clears or fair and fair.without_place > 0) then
      if fair then fair.save() end
      return fair and fair.without_place or 1
    end
  end
end
call('HSET', KEYS[7], 'claim', number)
if fair and want == 0 then fair.save() end
local add_row, rows = row_maker(data, tonumber(ARGV[5]), tonumber(ARGV[7]), line.payloads)
if is_paused then return rows end

-- True for a duplicate id: a replica runs the job now, or has completed it. The claim drops a duplicate, because
-- a second run would pay the provider a second time.
local function is_double(id, m)
  if m[6] == 'Done' then return true end
  local holder = m[5]
  return m[4]
    and m[4] ~= ''
    and holder
    and tonumber(call('ZSCORE', leases, holder) or 0) > now
    and protected('SISMEMBER', inflight_prefix .. holder, id) == 1
end

local bytes, doubles, full = 0, 0, false
while #rows < want and not full and doubles < 100 do
  local wanted = want - #rows
  local ids
  if fair then
    ids = fair.take(wanted)
  else
    ids = not busy and call('LPOP', active, wanted) or {}
  end
  if #ids == 0 then break end
  for i, id in ipairs(ids) do
    full = bytes >= most_bytes
    if full then
      for last = #ids, i, -1 do
        call('LPUSH', active, ids[last])
        returned(data, line.state, ids[last])
      end
      break
    end
    local meta = meta_prefix .. id
    local m = read_meta(meta, unpack(CLAIM_FIELDS))
    if is_double(id, m) then
      doubles = doubles + 1
    else
      local attempt = count(m[1], 0) + 1
      call('SADD', inflight, id)
      call(
        'HSET',
        meta,
        'status',
        'Running',
        'attempts',
        attempt,
        'claim',
        token,
        'progress',
        10,
        'locked_by',
        worker,
        'locked_at',
        floor(now / 1000)
      )
      bytes = bytes + add_row(id, attempt, m)
    end
  end
end
if busy then
  busy.is_short = #rows < want
  busy.save(tonumber(ARGV[12]))
end
return rows
