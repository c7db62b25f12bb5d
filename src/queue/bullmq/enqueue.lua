-- Adds a job the way BullMQ's Queue does.
-- KEYS 1 prefix
-- ARGV 1 job id  2 name  3 data, JSON, or '' where a hash that is to become the job holds it  4 opts, JSON  5 that hash
-- Returns 1 added, 0 the id is known.
local id, data = ARGV[1], ARGV[3] ~= '' and ARGV[3]
expect_lines(P)
call('INCR', P .. 'id')
if call('EXISTS', P .. id) == 1 then
  emit(P, 'duplicated', 'jobId', id)
  return 0
end
if not data then
  call('RENAME', ARGV[5], P .. id)
  call('PERSIST', P .. id)
end
add_job(id, ARGV[2], data, ARGV[4], now_ms())
return 1
