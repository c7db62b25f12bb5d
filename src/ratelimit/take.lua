-- Takes one request out of a sliding window.
-- KEYS 1 the window: a sorted set whose scores are ms timestamps, as the web API keeps it
-- ARGV 1 limit  2 window ms  3 request id, unique: sent again it takes nothing more
-- Returns {1 allowed | 0 refused, remaining, ms until the window frees a place}.
local key, limit, window, request = KEYS[1], tonumber(ARGV[1]), tonumber(ARGV[2]), ARGV[3]
local t = redis.call('TIME')
local now = tonumber(t[1]) * 1000 + math.floor(tonumber(t[2]) / 1000)

redis.call('ZREMRANGEBYSCORE', key, '-inf', now - window)
local used = redis.call('ZCARD', key)
local allowed = 0
if redis.call('ZSCORE', key, request) then
  allowed = 1
elseif used < limit then
  redis.call('ZADD', key, now, request)
  redis.call('PEXPIRE', key, window)
  used = used + 1
  allowed = 1
end
local first = redis.call('ZRANGE', key, 0, 0, 'WITHSCORES')
local frees = first[2] and math.max(1, math.ceil(tonumber(first[2]) + window - now)) or window
return { allowed, math.max(0, limit - used), math.min(frees, window) }
