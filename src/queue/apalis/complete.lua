-- Ends jobs well, and forgets the oldest completed jobs beyond the retention, two for each that ends.
-- KEYS 1 inflight of this worker  2 done  3 ended:done  4 data  5 fair  6 active  7 scheduled
-- ARGV 1 meta prefix  2 history prefix  3 keep ms  4 keep count
--      5 bytes of payload that are worth keeping once the job is done
--      6… of each job: id, claim token, result as JSON {"Ok":result} (empty: in its place), what it says of equal jobs (../equal_jobs.lua)
-- Returns for each job 1 applied (now or before), 0 lost, or the error that kept it from being written.
local inflight, done, ended, data = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local meta_prefix, history_prefix, keep_ms, keep_count = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
local now, answers, just_ended = now_ms(), {}, {}
local done_is_zset = is_zset(done)
call('ZCARD', ended)

-- Keeps the result for equal jobs, and wakes them.
local function answer_equal(id, result, how, keep, equal, key)
  if how == 'new' then call('SET', key, result_entry(id, result:sub(#'{"Ok":' + 1, -2), now), 'PX', keep) end
  wake_waiting(equal, how == 'unusable' and 1 or wakes_left, KEYS[6], KEYS[7])
end

local function complete(id, token, result, equal)
  local meta = meta_prefix .. id
  local held = standing(meta, inflight, id, token)
  if held ~= 'held' then return held == 'settled' and 1 or 0 end
  -- A large result is in its place, and so is the entry of equal jobs (large_result.lua).
  local is_placed = result == ''
  if is_placed and call('HGET', meta, 'placed') ~= token then
    error('the result of ' .. meta .. ' is not in its place')
  end
  local large = call('HSTRLEN', data, id) > tonumber(ARGV[5])

  call('SREM', inflight, id)
  add_ended(done, done_is_zset, id, now)
  call('ZADD', ended, now, id)
  call(
    'HSET',
    meta,
    'status',
    'Done',
    'claim',
    '',
    'settled',
    token,
    'progress',
    '100',
    'done_at',
    floor(now / 1000),
    unpack(is_placed and {} or { 'result', result })
  )
  call('HDEL', meta, 'placed')
  if large then call('HDEL', data, id) end
  call('DEL', 'ledger:' .. meta)
  just_ended[id] = true
  local how, keep, prefix, key = read_equal(equal)
  -- The job has ended: a foreign key among those of equal jobs costs their wake-up and no more.
  if how then pcall(answer_equal, id, result, is_placed and how == 'new' and 'reused' or how, keep, prefix, key) end
  return 1
end

for i = 6, #ARGV, 4 do
  local fine, answer = pcall(complete, ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3])
  -- Since Redis 7 an error is a table.
  if not fine and type(answer) == 'table' then answer = answer.err end
  answers[#answers + 1] = answer
end

call('DEL', KEYS[5] .. ':full') -- An owner may start another job (../owner_in_flight.lua).
local most = 2 * #answers
local old = call('ZRANGEBYSCORE', ended, '-inf', now - keep_ms, 'LIMIT', 0, most)
local excess = #old == 0 and min(call('ZCARD', ended) - keep_count, most) or 0
if excess > 0 then old = call('ZRANGE', ended, 0, excess - 1) end
for _, gone in ipairs(old) do
  -- Never a job of this call: the same call, sent again, has to find it.
  if not just_ended[gone] then
    call('ZREM', ended, gone)
    call(done_is_zset and 'ZREM' or 'SREM', done, gone)
    forget(data, meta_prefix, history_prefix, gone)
  end
end
return answers
