-- Adds a job the way `apalis_redis` does, but straight to the queue when it is due now.
-- KEYS 1 data  2 active  3 scheduled
-- ARGV 1 job id  2 payload, or '' where it is in `data` already  3 meta prefix  4 max attempts  5 delay ms  6 type
-- Returns 1 added, 0 the id is known.
local id, meta, delay = ARGV[1], ARGV[3] .. ARGV[1], tonumber(ARGV[5])
call('LLEN', KEYS[2])
call('ZCARD', KEYS[3])
if read_meta(meta, 'status')[1] or (ARGV[2] ~= '' and call('HSETNX', KEYS[1], id, ARGV[2]) == 0) then return 0 end
call('HSET', meta, 'attempts', 0, 'max_attempts', ARGV[4], 'status', 'Pending', 'idempotency_key', '', 'type', ARGV[6])
if delay > 0 then
  call('ZADD', KEYS[3], string.format('%.3f', (now_ms() + delay) / 1000), id)
else
  call('RPUSH', KEYS[2], id)
end
return 1
