-- A replica leaves: a chunk of whatever it still holds goes back, and with the last of it its lease.
-- KEYS 1 inflight of this worker  2 active  3 leases  4 workers
-- ARGV 1 worker  2 meta prefix  3 chunk
-- Returns how many jobs are left to put back.
local inflight, active, chunk = KEYS[1], KEYS[2], tonumber(ARGV[3])
for _, id in ipairs(call('SRANDMEMBER', inflight, chunk)) do
  local meta = ARGV[2] .. id
  call('SREM', inflight, id)
  call('LPUSH', active, id)
  local attempts = pcall('HGET', meta, 'attempts')
  if type(attempts) ~= 'table' then
    call('HSET', meta, 'status', 'Pending', 'claim', '', 'progress', 0, 'attempts',
      math.max(0, count(attempts, 1) - 1))
  end
end
local left = call('SCARD', inflight)
if left == 0 then
  call('ZREM', KEYS[3], ARGV[1])
  call('ZREM', KEYS[4], ARGV[1])
end
return left
