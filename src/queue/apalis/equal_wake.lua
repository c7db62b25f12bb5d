-- Prelude after ../equal_jobs.lua: how jobs that wait for an equal one are woken in this layout.

-- Puts waiting jobs to the front of the line: they have been there before, and cost nothing any more.
local function wake_waiting(equal, most, active, scheduled)
  local ids = take_waiting(equal, active, most)
  if #ids == 0 then return end
  call('LLEN', active)
  call('ZCARD', scheduled)
  -- The last first: the first that waited is next in line in the end.
  for i = #ids, 1, -1 do
    if call('ZREM', scheduled, ids[i]) == 1 then call('LPUSH', active, ids[i]) end
  end
end
