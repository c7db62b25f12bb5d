-- Puts jobs back as if they had not been claimed: next in line, the attempt given back.
-- KEYS 1 inflight of this worker  2 active  3 data  4 fair
-- ARGV 1 meta prefix  2… pairs of job id, claim token, the first claimed first
-- Returns how many of them this worker had: put back now, or before.
local inflight, active = KEYS[1], KEYS[2]
call('LLEN', active)
call('HLEN', KEYS[3])
local released = 0
for i = #ARGV - 1, 2, -2 do
  local id, token, meta = ARGV[i], ARGV[i + 1], ARGV[1] .. ARGV[i]
  local held = standing(meta, inflight, id, token)
  if held == 'held' then
    call('SREM', inflight, id)
    call('LPUSH', active, id)
    returned(KEYS[3], KEYS[4], id)
    call(
      'HSET',
      meta,
      'status',
      'Pending',
      'claim',
      '',
      'settled',
      token,
      'progress',
      0,
      'attempts',
      max(0, count(call('HGET', meta, 'attempts'), 1) - 1)
    )
  end
  if held ~= 'lost' then released = released + 1 end
end
return released
