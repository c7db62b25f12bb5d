-- Writes a migration that is done into the ledger. Sent twice it does no harm.
-- KEYS  1 lock  2 ledger
-- ARGV  1 token  2 version  3 name  4 sha  5 version of the worker  6 older workers: run | refuse  7 keys changed
-- Returns 1 written, 0 the lock has run out
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
local time = redis.call('TIME')
local at = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
redis.call(
  'HSET',
  KEYS[2],
  ARGV[2],
  cjson.encode({
    name = ARGV[3],
    sha = ARGV[4],
    at = at,
    by = ARGV[5],
    older = ARGV[6],
    changed = tonumber(ARGV[7]),
  })
)
return 1
