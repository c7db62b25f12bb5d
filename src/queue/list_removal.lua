-- Prelude of the scripts that remove a waiting job from its line, in either layout. LREM passes some 20 ids a µs: in
-- the middle of a million ids it would block all clients for tens of milliseconds.
local NEAR = 10000

-- Takes an id out of a list whose newest ids are at its 'head' or its 'tail'. The script finds an id near either end;
-- in the middle of a long list the caller searches for it. `place` is the number of newer ids that the caller has seen,
-- -1 when it has not found the id, '' when it has not searched. The newest id moves into the free place, because any
-- other removal would move half of the list.
-- Returns whether the id was there; nil when the caller has to search for it.
local function take_out_of_line(list, newest, id, place)
  local length = call('LLEN', list)
  if length <= 2 * NEAR then return call('LREM', list, 0, id) > 0 end
  for _, rank in ipairs({ 1, -1 }) do
    if call('LPOS', list, id, 'RANK', rank, 'MAXLEN', NEAR) then return call('LREM', list, rank, id) > 0 end
  end
  local seen = tonumber(place)
  if not seen then return nil end
  if seen < 0 then return false end
  -- Producers may have added jobs since `place` was found, so the id can be further from the newest end.
  local first = newest == 'head' and seen or max(0, length - seen - 1000)
  for i, other in ipairs(call('LRANGE', list, first, first + 999)) do
    if other == id then
      local index = first + i - 1
      if newest == 'head' then
        call('LSET', list, index - 1, call('LPOP', list))
      else
        call('LSET', list, index, call('RPOP', list))
      end
      return true
    end
  end
  return nil
end
