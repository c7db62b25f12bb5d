-- Looks up a job.
-- KEYS 1 prefix
-- ARGV 1 job id
-- Returns false, or {state, progress, attempts made, result, failed reason, why it waits, log rows}; what is not there
-- is false.
local id = ARGV[1]
local m = protected('HMGET', P .. id, 'name', 'progress', 'atm', 'returnvalue', 'failedReason', 'bw:why')
if m.err or not m[1] then return false end
local state = 'waiting'
if call('ZSCORE', P .. 'completed', id) then
  state = 'completed'
elseif call('ZSCORE', P .. 'failed', id) then
  state = 'failed'
elseif call('ZSCORE', P .. 'delayed', id) or call('ZSCORE', P .. 'waiting-children', id) then
  state = 'delayed'
elseif call('LPOS', P .. 'active', id) then
  state = 'active'
end
return { state, m[2], m[3], m[4], m[5], m[6], call('LRANGE', P .. id .. ':logs', -100, -1) }
