-- Adds a job the way BullMQ's Queue does.
-- KEYS 1 prefix
-- ARGV 1 job id  2 name  3 data, JSON  4 opts, JSON
-- Returns 1 added, 0 the id is known.
local id = ARGV[1]
expect_lines(P)
call('INCR', P .. 'id')
if call('EXISTS', P .. id) == 1 then
  emit(P, 'duplicated', 'jobId', id)
  return 0
end
add_job(id, ARGV[2], ARGV[3], ARGV[4], now_ms())
return 1
