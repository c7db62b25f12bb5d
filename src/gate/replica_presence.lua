-- Says that a replica is there, or leaves; forgets those not heard of.
-- KEYS  1 replicas
-- ARGV  1 replica  2 for how long, ms; 0 leaves
-- Returns how many replicas are there.
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
redis.call('ZADD', KEYS[1], now + tonumber(ARGV[2]), ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
return redis.call('ZCARD', KEYS[1])
