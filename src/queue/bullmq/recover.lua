-- Puts back a chunk of the jobs whose lock has run out: their worker is dead, or could write nothing any more. The lost
-- delivery is counted; too many make the job poison.
--
-- Unlike BullMQ's own sweep, this one neither marks suspects first nor takes turns with others (`stalled-check`): no
-- worker gets an expired lock back, so to wait for a second look would only be slower.
-- KEYS 1 prefix
-- ARGV 1 chunk  2 lost deliveries that make poison
-- Returns {requeued, poisoned, 1 if there is more to do}.
local chunk, max_lost = tonumber(ARGV[1]), tonumber(ARGV[2])
local now = now_ms()
local requeued, poisoned = 0, 0

local function has_scheduler(id)
  local scheduler = call('HGET', P .. id, 'rjk')
  return scheduler and (call('EXISTS', P .. 'repeat:' .. scheduler) == 1 or call('ZSCORE', P .. 'repeat', scheduler))
end

for _, id in ipairs(call('LRANGE', P .. 'active', 0, -1)) do
  if requeued + poisoned == chunk then return { requeued, poisoned, 1 } end
  if call('EXISTS', P .. id .. ':lock') == 0 then
    if call('EXISTS', P .. id) == 0 then
      call('LREM', P .. 'active', 1, id)
    else
      local lost = bump(P .. id, 'stc')
      if lost >= max_lost and not has_scheduler(id) then
        local reason = 'poison: ' .. lost
          .. ' deliveries ended without an outcome (job stalled more than allowable limit)'
        blame(id, reason)
        finish(id, '', 'failed', reason, now)
        poisoned = poisoned + 1
      else
        call('RPUSH', (target(P)), id) -- Prioritized ones too: they have waited.
        let_go(id, '')
        announce(P, id, 'active')
        emit(P, 'stalled', 'jobId', id)
        requeued = requeued + 1
      end
    end
  end
end
return { requeued, poisoned, 0 }
