-- Counts the jobs in each state.
-- KEYS 1 workers  2 active  3 done  4 dead  5 scheduled  6 ended:dead  7 paused
-- ARGV 1 inflight prefix
-- Returns {waiting, active, completed, failed, delayed, age of the oldest dead letter in ms, or false,
-- 1 for a paused queue}.
local function ended(key) return call(is_zset(key) and 'ZCARD' or 'SCARD', key) end
local held = 0
for _, worker in ipairs(call('ZRANGE', KEYS[1], 0, -1)) do
  held = held + call('SCARD', ARGV[1] .. worker)
end
local oldest = tonumber(call('ZRANGE', KEYS[6], 0, 0, 'WITHSCORES')[2])
return {
  call('LLEN', KEYS[2]),
  held,
  ended(KEYS[3]),
  ended(KEYS[4]),
  call('ZCARD', KEYS[5]),
  oldest and floor(max(0, now_ms() - oldest)) or false,
  call('EXISTS', KEYS[7]),
}
