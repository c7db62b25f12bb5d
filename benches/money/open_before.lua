-- Notes that paid calls are about to be sent, unless their answer is known.
-- KEYS 1… the page of each call's job
-- ARGV 1 time to live, ms  2… of each call: entry, mark of this sending
-- Returns for each what stood there: '' nothing (or this very mark: a resend), '?…' the mark of a call whose answer is
-- not known, '=…' a kept answer, which stays; nil where the page is none.
local answers = {}
for i, page in ipairs(KEYS) do
  local entry, mark = ARGV[2 * i], ARGV[2 * i + 1]
  local found = redis.pcall('HGET', page, entry) or ''
  if type(found) == 'table' then
    answers[i] = false
  elseif found:sub(1, 1) == '=' then
    answers[i] = found
  else
    -- Who has got so far is the job's delivery with the mark's token: it counts when it is lost (queue/poison_count.lua).
    redis.call('HSET', page, entry, mark, 'by', mark:match('^%?(.*):%d+$') or '')
    redis.call('PEXPIRE', page, ARGV[1])
    answers[i] = found == mark and '' or found
  end
end
return answers
