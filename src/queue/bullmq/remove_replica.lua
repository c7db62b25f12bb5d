-- Gives back a leaving replica's jobs within one stretch of the claimed jobs. The last claimed goes first, so that the
-- first claimed is next in line again. At the end of the list the script wakes a waiting worker, because this replica
-- may have consumed the wake-up that was meant for it.
-- KEYS 1 prefix
-- ARGV 1 worker  2 where to begin: claimed jobs that are passed over  3 stretch
-- Returns where to go on, or -1 at the end.
local tokens, offset, stretch = ARGV[1] .. ':', tonumber(ARGV[2]), tonumber(ARGV[3])
expect_claims()
local left, walked, claimed = 0, 0, call('LRANGE', P .. 'active', offset, offset + stretch - 1)
nearest = '1'
for _, id in ipairs(claimed) do
  if walked > FARTHEST then return offset + left end
  local token = claim_of(id, tokens, math.huge)
  if token then
    give_back(id, token)
    walked = walked + offset + left
  else
    left = left + 1
  end
end
if #claimed == stretch then return offset + left end

if has_work(P) then
  local _, free = target(P)
  if free then wake(P) end
end
wake_when_due(P)
call('DEL', P .. 'bw:session:' .. ARGV[1])
return -1
