-- Takes the lock, or renews it for its holder. A resend does no harm.
-- KEYS  1 lock
-- ARGV  1 token  2 ttl ms
-- Returns 1 held, 0 another replica holds it
local holder = redis.call('GET', KEYS[1])
if holder and holder ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1
