-- Puts refused events back to the end of the stream, so that they are forwarded again under their old keys.
-- KEYS  1 the stream of events  2 the stream of refused events
-- ARGV  1 events at most  2 the length of the stream of events, about
-- Returns how many it has moved.
local call = redis.call
local moved = call('XRANGE', KEYS[2], '-', '+', 'COUNT', tonumber(ARGV[1]))
for _, event in ipairs(moved) do
  local copy = { 'XADD', KEYS[1], 'MAXLEN', '~', ARGV[2], '*' }
  -- The first two pairs tell of the refusal.
  for i = 5, #event[2] do
    copy[#copy + 1] = event[2][i]
  end
  if #copy > 6 then call((table.unpack or unpack)(copy)) end
  call('XDEL', KEYS[2], event[1])
end
return #moved
