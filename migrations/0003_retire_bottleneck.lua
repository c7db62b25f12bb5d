-- Removes what Bottleneck keeps of one limiter, unless a client of it is alive. Only by an operator's order.
-- KEYS  after the lock: the limiter's keys, all of them; the one of client_last_seen last
-- ARGV  after the cursor: 4 silence after which a client counts as gone, ms
--       (its clients write their own clock's time)
local last_seen = KEYS[#KEYS]
local limiter = string.match(last_seen, '^b_(.*)_client_last_seen$') or last_seen
if redis.call('TYPE', last_seen).ok == 'zset' then
  local latest = redis.call('ZREVRANGE', last_seen, 0, 0, 'WITHSCORES')[2]
  if latest and tonumber(latest) > now - tonumber(ARGV[4]) then
    return { '0', 0, { limiter .. ': still in use, left alone' } }
  end
end
local keys = {}
for i = 2, #KEYS do keys[#keys + 1] = KEYS[i] end
local changed = redis.call('EXISTS', unpack(keys))
if not dry then redis.call('UNLINK', unpack(keys)) end
return { '0', changed, {} }
