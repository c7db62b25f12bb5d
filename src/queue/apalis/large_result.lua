-- Reads what has to be written beside the completion of a job with a large result.
-- KEYS 1 inflight of this worker
-- ARGV 1 job id  2 claim token  3 meta prefix
-- Returns {1 held, 0 lost, 2 written before; 1 if the result is in its place; two empty keys and a length that only the
-- BullMQ layout has; now in ms}
local id, token, meta = ARGV[1], ARGV[2], ARGV[3] .. ARGV[1]
local held = standing(meta, KEYS[1], id, token)
if held ~= 'held' then return { held == 'settled' and 2 or 0, 0, '', '', '0', '0' } end
return { 1, call('HGET', meta, 'placed') == token and 1 or 0, '', '', '0', string.format('%.0f', now_ms()) }
