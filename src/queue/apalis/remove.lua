-- Removes a job that is not active.
-- KEYS 1 active  2 scheduled  3 done  4 dead  5 ended:done  6 ended:dead  7 data
-- ARGV 1 job id  2 meta prefix  3 history prefix  4 inflight prefix  5 idempotency prefix
--      6 its place in the line of those that wait: see `list_removal.lua`
-- Returns 'removed', 'unknown', 'active', or false where the caller has to look for its place.
local active, scheduled, done, dead, data = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[7]
local id, meta = ARGV[1], ARGV[2] .. ARGV[1]
local done_is_zset, dead_is_zset = is_zset(done), is_zset(dead)
call('LLEN', active)
for _, zset in ipairs({ KEYS[5], KEYS[6], scheduled }) do
  call('ZCARD', zset)
end
call('HLEN', data)

local m = protected('HMGET', meta, 'locked_by', 'idempotency_key')
if m.err then m = {} end
if m[1] and protected('SISMEMBER', ARGV[4] .. m[1], id) == 1 then return 'active' end

local found = call('ZREM', KEYS[5], id)
  + call('ZREM', KEYS[6], id)
  + call('ZREM', scheduled, id)
  + call(done_is_zset and 'ZREM' or 'SREM', done, id)
  + call(dead_is_zset and 'ZREM' or 'SREM', dead, id)
-- The queue is searched only for what can be there.
if found == 0 then
  local taken = take_out_of_line(active, 'tail', id, ARGV[6])
  if taken == nil then return false end
  found = taken and 1 or 0
end
found = found + call('EXISTS', meta) + call('HEXISTS', data, id)
-- Frees the idempotency key, so that producers can add a task under it again.
local key = m[2] and m[2] ~= '' and ARGV[5] .. m[2]
if key and protected('GET', key) == id then call('DEL', key) end
forget(data, ARGV[2], ARGV[3], id)
return found > 0 and 'removed' or 'unknown'
