-- Reports progress, and a failed attempt.
-- KEYS 1 inflight of this worker
-- ARGV 1 job id  2 claim token  3 meta prefix  4 history prefix  5 percent  6 note for the history, or ''
-- Returns 1 written, 0 lost.
local id, meta, history = ARGV[1], ARGV[3] .. ARGV[1], ARGV[4] .. ARGV[1]
if standing(meta, KEYS[1], id, ARGV[2]) ~= 'held' then return 0 end
call('LLEN', history)
call('HSET', meta, 'progress', ARGV[5])
remember(history, now_ms(), ARGV[6])
return 1
