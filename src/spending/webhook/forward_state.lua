-- Reads how far the forwarder of usage events is.
-- KEYS  1 the stream of events  2 state of the forwarder  3 the stream of refused events
-- Returns {events that wait, age of the oldest one in ms, refused events, length of the stream, the replica that forwards
-- or ''}
local call, floor = redis.call, math.floor
local time = call('TIME')
local now = tonumber(time[1]) * 1000 + floor(tonumber(time[2]) / 1000)
local found = call('HMGET', KEYS[2], 'holder', 'until', 'cursor', 'kept')
local holder, ends, cursor, kept = found[1], tonumber(found[2] or 0) or 0, found[3], tonumber(found[4] or 0) or 0
local length = call('XLEN', KEYS[1])
local waiting, age = 0, 0
local next = cursor and call('XRANGE', KEYS[1], '(' .. cursor, '+', 'COUNT', 1)[1]
if next then
  waiting = math.max(length - kept, 1)
  age = math.max(now - (tonumber(string.match(next[1], '^%d+')) or now), 0)
end
return { waiting, age, call('XLEN', KEYS[3]), length, ends > now and holder or '' }
