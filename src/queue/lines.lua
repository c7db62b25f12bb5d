-- Prelude of the scripts that take a job out of the line of those that wait, of either layout. LREM passes some 20 ids a
-- µs: in the middle of a million it would hold up everybody for tens of milliseconds.
local NEAR = 10000

-- Takes an id out of a list whose newest ids are at its 'head' or its 'tail'. Near either end it is found here; in the
-- middle of a long list the caller has to look for it. `place` is how many newer ids it has seen, -1 when it has not found
-- the id, '' when it has not looked. The newest of the list takes the place: anything else would move half of it.
-- Returns whether the id was there; nil when the caller has to look for it.
local function take_out_of_line(list, newest, id, place)
  local length = call('LLEN', list)
  if length <= 2 * NEAR then return call('LREM', list, 0, id) > 0 end
  for _, rank in ipairs({ 1, -1 }) do
    if call('LPOS', list, id, 'RANK', rank, 'MAXLEN', NEAR) then return call('LREM', list, rank, id) > 0 end
  end
  local seen = tonumber(place)
  if not seen then return nil end
  if seen < 0 then return false end
  -- Others may have joined the line meanwhile.
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
