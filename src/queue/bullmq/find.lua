-- Looks up a job.
-- KEYS 1 prefix
-- ARGV 1 job id
-- Returns false, or {state, progress, attempts made, result, failed reason, why it waits, whose gate it waits for, when
-- it is due in ms, log rows, name, when it was added, when it ended}; what is not there is false.
local id = ARGV[1]
local m = protected('HMGET', P .. id, 'name', 'progress', 'atm', 'returnvalue', 'failedReason', 'bw:why', 'bw:gate',
  'timestamp', 'finishedOn')
if m.err or not (m[1] or call('HEXISTS', P .. id, 'data') == 1 or call('HEXISTS', P .. id, 'opts') == 1) then return false end
local state, due = 'waiting', call('ZSCORE', P .. 'delayed', id)
if call('ZSCORE', P .. 'completed', id) then
  state = 'completed'
elseif call('ZSCORE', P .. 'failed', id) then
  state = 'failed'
elseif due or call('ZSCORE', P .. 'waiting-children', id) then
  state = 'delayed'
elseif call('LPOS', P .. 'active', id) then
  state = 'active'
end
due = due and string.format('%.0f', max(0, floor(tonumber(due) / 4096)))
local log = protected('LRANGE', P .. id .. ':logs', -100, -1)
return { state, m[2], m[3], m[4], m[5], m[6], m[7], due, log.err and {} or log, m[1], m[8], m[9] }
