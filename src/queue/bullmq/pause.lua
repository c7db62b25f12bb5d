-- Pauses or resumes a queue for all workers. BullMQ renames one list over the other and loses the jobs of the other.
-- This script keeps them, because a producer of BullMQ v6 knows one list only, and fills it even while a v5 queue is
-- paused. Where both lists hold jobs, the script moves a chunk of them, and the queue stays paused until all are moved.
-- KEYS 1 prefix
-- ARGV 1 paused | resumed  2 chunk
-- Returns 1 done, 0 there is more to move.
local pausing = ARGV[1] == 'paused'
local from, to = P .. 'wait', P .. 'paused'
if not pausing then
  from, to = to, from
end

expect_lines(P)

-- Keeps the older jobs next in line. The jobs in `from` are the older ones at a resume, the younger ones at a pause.
if call('EXISTS', to) == 0 then
  if call('EXISTS', from) == 1 then call('RENAME', from, to) end
elseif call('EXISTS', from) == 1 then
  local younger, older = to, from
  if pausing then
    younger, older = from, to
    call('HSET', P .. 'meta', 'paused', 1)
  end
  for _ = 1, tonumber(ARGV[2]) do
    if not call('LMOVE', younger, older, 'RIGHT', 'LEFT') then break end
  end
  if call('EXISTS', younger) == 1 then return 0 end
  if not pausing then call('RENAME', from, to) end
end

if pausing then
  call('HSET', P .. 'meta', 'paused', 1)
  call('DEL', P .. 'marker')
else
  call('HDEL', P .. 'meta', 'paused')
  if has_work(P) then
    wake(P)
  else
    wake_when_due(P)
  end
end
emit(P, ARGV[1])
return 1
