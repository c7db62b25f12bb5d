-- Pauses or resumes a queue for everybody. BullMQ renames one list over the other; whatever is in the other is kept
-- here: a producer of BullMQ v6 knows one list only, and fills that even while a v5 queue is paused.
-- KEYS 1 prefix
-- ARGV 1 paused | resumed
local pausing = ARGV[1] == 'paused'
local from, to = P .. 'wait', P .. 'paused'
if not pausing then from, to = to, from end

expect_lines(P)

-- What is in `from` is older when the queue resumes, and younger when it pauses: the older jobs stay next in line.
if call('EXISTS', to) == 0 then
  if call('EXISTS', from) == 1 then call('RENAME', from, to) end
elseif pausing then
  while call('LMOVE', from, to, 'RIGHT', 'LEFT') do end
else
  while call('LMOVE', to, from, 'RIGHT', 'LEFT') do end
  call('RENAME', from, to)
end

if pausing then
  call('HSET', P .. 'meta', 'paused', 1)
  call('DEL', P .. 'marker')
else
  call('HDEL', P .. 'meta', 'paused')
  if has_work(P) then wake(P) else wake_when_due(P) end
end
emit(P, ARGV[1])
