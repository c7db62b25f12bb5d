-- Looks up a job.
-- KEYS 1 prefix
-- ARGV 1 job id  2 bytes of a result that the answer may hold
-- Returns false, or {{state, progress, attempts made, result, failed reason, why it waits, whose gate it waits for, when
-- it is due in ms, log rows, name, when it was added, when it ended}, 1 for a result left out}; what is not there is false.
local id = ARGV[1]
local size = protected('HSTRLEN', P .. id, 'returnvalue')
if type(size) ~= 'number' then return false end
local apart = size > tonumber(ARGV[2])
local m = call(
  'HMGET',
  P .. id,
  'name',
  'progress',
  'atm',
  apart and '' or 'returnvalue',
  'failedReason',
  'bw:why',
  'bw:gate',
  'timestamp',
  'finishedOn'
)
if not (m[1] or call('HEXISTS', P .. id, 'data') == 1 or call('HEXISTS', P .. id, 'opts') == 1) then return false end
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
due = due and text(max(0, floor(tonumber(due) / 4096)))
local log = protected('LRANGE', P .. id .. ':logs', -100, -1)
return { { state, m[2], m[3], m[4], m[5], m[6], m[7], due, log.err and {} or log, m[1], m[8], m[9] }, apart and 1 or 0 }
