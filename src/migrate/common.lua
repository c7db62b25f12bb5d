-- Prelude of every migration, put in front of it so that each step is one EVALSHA. A step works on one batch of keys
-- and at most one chunk of them, and is called again with the cursor that it returned until that is "0".
-- KEYS  1 lock  then the batch
-- ARGV  1 token of the lock; '' for a dry run, which changes nothing  2 lock ttl ms  3 cursor, at first "0"
-- Returns {cursor, keys changed (dry: that would change), notes for the operator}; the cursor is "lost" when the
--         lock has run out: another replica may migrate by now
local dry = ARGV[1] == ''
if not dry then
  if redis.call('GET', KEYS[1]) ~= ARGV[1] then return { 'lost', 0, {} } end
  redis.call('PEXPIRE', KEYS[1], ARGV[2])
end
local unpack = table.unpack or unpack -- Lua 5.4 (Dragonfly) or 5.1 (Redis, Valkey)
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
