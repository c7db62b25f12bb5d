-- Says that a replica is there, and what it does; or that it leaves. Forgets replicas not heard of for long.
-- KEYS 1 seen  2 replicas
-- ARGV 1 replica  2 what it says of itself, or '': it leaves  3 ms after which a silent one is forgotten
-- Returns how many replicas are known.
local time, keep = redis.call('TIME'), tonumber(ARGV[3])
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local function forget(replica)
  redis.call('ZREM', KEYS[1], replica)
  redis.call('HDEL', KEYS[2], replica)
end

if ARGV[2] == '' then
  forget(ARGV[1])
else
  redis.call('ZADD', KEYS[1], now, ARGV[1])
  redis.call('HSET', KEYS[2], ARGV[1], ARGV[2])
end
for _, silent in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now - keep, 'LIMIT', 0, 100)) do
  forget(silent)
end
redis.call('PEXPIRE', KEYS[1], keep)
redis.call('PEXPIRE', KEYS[2], keep)
return redis.call('ZCARD', KEYS[1])
