-- Reads a sliding window without taking anything.
-- KEYS 1 the window   ARGV 1 limit  2 window ms
-- Returns {1 there is room | 0 full, remaining, ms until the window frees a place}.
local t = redis.call('TIME')
local now = tonumber(t[1]) * 1000 + math.floor(tonumber(t[2]) / 1000)
local limit, window = tonumber(ARGV[1]), tonumber(ARGV[2])
local used = redis.call('ZCOUNT', KEYS[1], '(' .. string.format('%.0f', now - window), '+inf')
local first =
  redis.call('ZRANGEBYSCORE', KEYS[1], '(' .. string.format('%.0f', now - window), '+inf', 'WITHSCORES', 'LIMIT', 0, 1)
local frees = first[2] and math.max(1, math.ceil(tonumber(first[2]) + window - now)) or window
return { used < limit and 1 or 0, math.max(0, limit - used), math.min(frees, window) }
