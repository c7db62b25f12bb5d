-- A replica leaves: a chunk of whatever it still holds goes back, and with the last of it its lease.
-- KEYS 1 inflight of this worker  2 active  3 leases  4 workers  5 session of this worker  6 data  7 fair
-- ARGV 1 worker  2 meta prefix  3 chunk
-- Returns how many jobs are left to put back.
local inflight, active, chunk = KEYS[1], KEYS[2], tonumber(ARGV[3])
call('LLEN', active)
call('HLEN', KEYS[6])
for _, id in ipairs(call('SRANDMEMBER', inflight, chunk)) do
  local meta = ARGV[2] .. id
  local m = read_meta(meta, 'attempts', 'locked_by')
  call('SREM', inflight, id)
  if not m[2] or m[2] == ARGV[1] then
    call('LPUSH', active, id)
    returned(KEYS[6], KEYS[7], id)
    call('HSET', meta, 'status', 'Pending', 'claim', '', 'progress', 0, 'attempts', max(0, count(m[1], 1) - 1))
  end
end
local left = call('SCARD', inflight)
if left == 0 then
  call('ZREM', KEYS[3], ARGV[1])
  call('ZREM', KEYS[4], ARGV[1])
  call('DEL', KEYS[5])
end
return left
