-- Second prelude, of the scripts that recover jobs of dead or leaving replicas.
--
-- The job goes back to the head of the queue. It gets its attempt back, and its lost deliveries go up by one; too many
-- of them make it poison (../poison_count.lua). `holder` owns the in-flight set that lists the job. If another replica holds
-- the job by now, the script only removes it from that set.
-- Returns 'requeued', 'poisoned' or 'left'.
local function orphan(id, holder, inflight, active, dead, ended, meta, history, max_lost, now)
  local m = read_meta(meta, 'attempts', 'lost', 'locked_by', 'claim', 'begun', 'cut')
  local dead_is_zset = is_zset(dead)
  call('LLEN', active)
  call('ZCARD', ended)
  call('SREM', inflight, id)
  if m[3] and m[3] ~= holder then return 'left' end
  local lost, cut = count(m[2], 0) + 1, count(m[6], 0)
  if lost == 1 or ran_alone(m[4], m[5]) then cut = cut + 1 end
  local reason = poison(lost, cut, max_lost)
  if reason then
    add_ended(dead, dead_is_zset, id, now)
    call('ZADD', ended, now, id)
    call(
      'HSET',
      meta,
      'status',
      'Killed',
      'lost',
      lost,
      'cut',
      cut,
      'claim',
      '',
      'done_at',
      floor(now / 1000),
      'error',
      reason,
      'result',
      cjson.encode({ Err = reason })
    )
    -- A history that is none must not keep the job from ending.
    if type(protected('LLEN', history)) == 'number' then
      remember(history, now, note_of(max(1, count(m[1], 1)), 'poison', reason, holder))
    end
    return 'poisoned'
  end
  call('LPUSH', active, id)
  call('HSET', meta, 'status', 'Pending', 'lost', lost, 'cut', cut, 'claim', '', 'attempts', max(0, count(m[1], 1) - 1))
  return 'requeued'
end
