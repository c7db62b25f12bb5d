-- Adds a job the way BullMQ's Queue does.
-- KEYS 1 prefix
-- ARGV 1 job id  2 name  3 data, JSON  4 opts, JSON  5 delay ms
-- Returns 1 added, 0 the id is known.
local id, delay = ARGV[1], tonumber(ARGV[5])
call('INCR', P .. 'id')
if call('EXISTS', P .. id) == 1 then
  emit(P, 'duplicated', 'jobId', id)
  return 0
end
local now = now_ms()
call('HSET', P .. id, 'name', ARGV[2], 'data', ARGV[3], 'opts', ARGV[4], 'timestamp', now, 'delay', ARGV[5],
  'priority', 0)
emit(P, 'added', 'jobId', id, 'name', ARGV[2])
if delay > 0 then put_off(P, id, now + delay) else make_ready(P, id, false) end
return 1
