-- Adds what one replica's jobs came to since its last report to the fleet's counts of this minute.
-- KEYS 1 hash
-- ARGV 1 replica  2 number of the report, grows by one  3 minutes that are kept  4… counts, each for its place
-- Returns 1 counted, 0 this report was counted before.
local key, last, number, keep = KEYS[1], 'last:' .. ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local minute = math.floor(tonumber(redis.call('TIME')[1]) / 60)
local told = redis.call('HGET', key, last)
if told and number <= (tonumber(string.match(told, '^%d+')) or 0) then return 0 end

redis.call('HSET', key, last, ARGV[2] .. ' ' .. minute)
for i = 4, #ARGV do
  local field = minute .. ':' .. (i - 4)
  local count = (tonumber(redis.call('HGET', key, field) or nil) or 0) + tonumber(ARGV[i])
  if count > 0 then redis.call('HSET', key, field, string.format('%.0f', count)) end
end
redis.call('EXPIRE', key, (keep + 1) * 60)

-- Deletes old counts once a minute, and replicas that have not reported for as long.
if redis.call('HGET', key, 'swept') ~= tostring(minute) then
  redis.call('HSET', key, 'swept', minute)
  local all = redis.call('HGETALL', key)
  for i = 1, #all, 2 do
    local at = string.match(all[i], '^(%d+):') or string.match(all[i], '^last:') and string.match(all[i + 1], ' (%d+)$')
    if at and tonumber(at) <= minute - keep then redis.call('HDEL', key, all[i]) end
  end
end
return 1
