-- A replica leaves: a chunk of whatever it still holds goes back, and whoever waits is woken, in case that it was this
-- replica that had been.
-- KEYS 1 prefix
-- ARGV 1 worker  2 chunk
-- Returns how many were put back.
local tokens, chunk = ARGV[1] .. ':', tonumber(ARGV[2])
expect_claims()
local released = 0
-- The last claimed first, so that the first claimed is next in line again.
for _, id in ipairs(call('LRANGE', P .. 'active', 0, -1)) do
  if released == chunk then return released end
  local m = protected('HMGET', P .. id, 'bw:claim', 'ats')
  local token = not m.err and m[1] and m[1]:sub(1, #tokens) == tokens and m[1]:match('^(.*) %d+$')
  if token and m[1] == mark(token, m[2]) then
    give_back(id, token)
    released = released + 1
  end
end
if has_work(P) then
  local _, free = target(P)
  if free then wake(P) end
end
wake_when_due(P)
call('DEL', P .. 'bw:session:' .. ARGV[1])
return released
