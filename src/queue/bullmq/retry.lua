-- Puts dead letters back into the queue, as Job.retry of BullMQ does: the reason goes, the stacks, the log and the
-- attempts stay. This worker's own counts of lost deliveries and of time spent at gates restart at zero.
-- KEYS 1 prefix
-- ARGV 1 order, unique  2 operator  3 reset attempts to zero 0|1  4… job ids, the newest first
-- Returns for each id: 'retried' by this order, now or before; 'again': it has failed again since; 'other': it is no dead
-- letter; 'broken': there is no job behind the id, or its keys are not what they should be.
local order, who, resets_attempts = ARGV[1], ARGV[2], ARGV[3] == '1'
expect_lines(P)
expect(P, 'active', 'failed')
local now, fates = now_ms(), {}

-- Makes a parent wait for the job again if the failure was reported to it.
local function tie(key, parent)
  if not parent or parent == '' or call('EXISTS', parent) == 0 then return end
  call('SCARD', parent .. ':dependencies')
  if call('ZREM', parent .. ':unsuccessful', key) == 1 or call('HDEL', parent .. ':failed', key) == 1 then
    call('SADD', parent .. ':dependencies', key)
  end
end

local function retry(id)
  local key = P .. id
  local m = protected('HMGET', key, 'name', 'data', 'opts', 'atm', 'bw:retried', 'parentKey')
  local log = protected('LLEN', key .. ':logs')
  if m.err or type(log) ~= 'number' or not (m[1] or m[2] or m[3]) then return 'broken' end
  local failed = call('ZSCORE', P .. 'failed', id)
  if m[5] == order then return failed and 'again' or 'retried' end
  if not failed or call('EXISTS', key .. ':lock') == 1 then return 'other' end

  local tied, problem = pcall(tie, key, m[6])
  if not tied then complain(key .. ' is retried, its parent was not told', problem) end
  remember(id, now, note_of(count(m[4], 0), 'retried', 'retried by hand', who))
  call('HDEL', key, 'finishedOn', 'processedOn', 'failedReason', 'stc', 'bw:cut', 'bw:waited', 'bw:why', 'bw:gate')
  if resets_attempts then call('HDEL', key, 'atm') end
  call('HSET', key, 'bw:retried', order)
  call('ZREM', P .. 'failed', id)
  -- A retried job never joins the prioritized jobs, as in BullMQ's own retry.
  call(options(m[3]).lifo == true and 'RPUSH' or 'LPUSH', (target(P)), id)
  announce(P, id, 'failed')
  return 'retried'
end

for i = #ARGV, 4, -1 do
  fates[i - 3] = retry(ARGV[i])
end
return fates
