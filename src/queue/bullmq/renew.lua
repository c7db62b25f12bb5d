-- Renews the locks of a replica's jobs, and returns the jobs that it has lost. The script sets a lock again that ran
-- out during an outage, as long as no other worker has claimed its job since.
-- KEYS 1 prefix
-- ARGV 1 lock ms  2… pairs of job id, claim token
-- Returns {number of jobs claimed by all workers, positions (0, 1, …) of the lost pairs, version of the producers'
-- BullMQ, number of schedulers}.
if #ARGV > 1 then expect_active() end
note_renewal(P .. 'bw:witness', now_ms, tonumber(ARGV[1]))
-- How many jobs of each owner are in flight (../owner_in_flight.lua).
if #ARGV > 1 then call('PEXPIRE', P .. 'bw:fair:busy', 2 * tonumber(ARGV[1])) end
local lost = {}
for i = 2, #ARGV, 2 do
  local id, token = ARGV[i], ARGV[i + 1]
  local held = standing(id, token)
  if held == 'held' then lock(id, token, ARGV[1]) end
  if held == 'lost' or held == 'gone' then lost[#lost + 1] = (i - 2) / 2 end
end
local schedulers = protected('ZCARD', P .. 'repeat')
return {
  call('LLEN', P .. 'active'),
  lost,
  call('HGET', P .. 'meta', 'version') or '',
  type(schedulers) == 'number' and schedulers or 0,
}
