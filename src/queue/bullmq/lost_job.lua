-- Third prelude, of the scripts that recover jobs of dead or leaving replicas.
--
-- Puts the job back at the head of the queue, and counts the lost delivery. Too many of them make the job poison
-- (../poison_count.lua).
-- Returns 'requeued' or 'poisoned'.
local function has_scheduler(id)
  local scheduler = call('HGET', P .. id, 'rjk')
  return scheduler
    and (
      call('EXISTS', P .. 'repeat:' .. scheduler) == 1
      or type(protected('ZSCORE', P .. 'repeat', scheduler)) == 'string'
    )
end

local function orphan(id, max_lost, now)
  local spared = has_scheduler(id)
  local b = call('HMGET', P .. id, 'bw:begun', 'bw:cut')
  local lost, cut = bump(P .. id, 'stc'), count(b[2], 0)
  if lost == 1 or ran_alone(claim_of(id, '', math.huge), b[1]) then cut = bump(P .. id, 'bw:cut') end
  local reason = poison(lost, cut, max_lost)
  if reason and not spared then
    reason = reason .. ' (job stalled more than allowable limit)'
    local m, by = call('HMGET', P .. id, unpack(ENDING)), call('HGET', P .. id, 'pb')
    -- A log that is none must not keep the job from ending.
    if type(protected('LLEN', P .. id .. ':logs')) == 'number' then
      remember(id, now, note_of(count(m[6], 0) + 1, 'poison', reason, by or ''))
    end
    blame(id, reason)
    finish(id, m, '', 'failed', reason, now)
    return 'poisoned'
  end
  call('RPUSH', (target(P)), id) -- Prioritized ones too: they have waited.
  let_go(id, '')
  unlock(id)
  announce(P, id, 'active')
  emit(P, 'stalled', 'jobId', id)
  return 'requeued'
end
