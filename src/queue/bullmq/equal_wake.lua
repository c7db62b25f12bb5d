-- Prelude after ../equal_jobs.lua: how jobs that wait for an equal one are woken in this layout.

-- Puts waiting jobs to the front of the line: they have been there before, and cost nothing any more.
local function wake_waiting(equal, most)
  local ids = take_waiting(equal, P, most)
  if #ids == 0 then return end
  expect_lines(P)
  -- The last first: the first that waited is next in line in the end.
  for i = #ids, 1, -1 do
    local id = ids[i]
    if call('ZREM', P .. 'delayed', id) == 1 and call('EXISTS', P .. id) == 1 then
      call('HSET', P .. id, 'delay', '0')
      returned(id)
      line_up(P, (target(P)), id, true)
      emit(P, 'waiting', 'jobId', id, 'prev', 'delayed')
    end
  end
  local _, free = target(P)
  if free then wake(P) end
end

-- After a job was completed: keeps its result for equal jobs, and wakes them.
local function answer_equal(id, result, now, how, keep_ms, equal, key)
  if how == 'new' then call('SET', key, result_entry(id, result, now), 'PX', keep_ms) end
  wake_waiting(equal, how == 'unusable' and 1 or wakes_left)
end
