-- Reports progress, and a failed try.
-- KEYS 1 prefix
-- ARGV 1 job id  2 claim token  3 percent  4 note for the history, or ''
-- Returns 1 written, 0 lost.
local id = ARGV[1]
if standing(id, ARGV[2]) ~= 'held' then return 0 end
expect_log(id)
expect(P, 'meta', 'events')
call('HSET', P .. id, 'progress', ARGV[3])
report(id, ARGV[3])
remember(id, now_ms(), ARGV[4])
return 1
