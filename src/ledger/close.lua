-- Closes paid calls: stores their answers, and books each call exactly once. Also ends the reservations of replicas that
-- have gone silent.
-- KEYS  1… the page of each call's job
-- ARGV  1 and 2 as in books.lua  3 time to live of a page, ms  4 is this replica idle: 1 no call of it is in flight
--       5… of each page: entry, mark of this sending, new content, note, job type
--          new content: '=…' an answer (the script checks no token: any delivery's answer belongs to the same request),
--          '?' the mark stays, '' the mark is taken back, unless another call has overwritten it since
--          note: kind, amount and step of the booking, shown on the job's page ('' none)
--       then of each call to book: number, id of the call, kind of the booking, amount, student, row, tokens of the
--          request, of the cache, of the answer, of reasoning
--       The numbers of a replica rise, and it sends one of these scripts at a time, so a number that was booked before is
--       a resend.
-- Returns {for each page 1, or nil where the page has another type; the last number that is booked}
local kept = {}
for i, page in ipairs(KEYS) do
  local entry, mark, answer, note, job_type = unpack(ARGV, 5 * i, 4 + 5 * i)
  if answer == '?' then
    kept[i] = redis.pcall('HGET', page, entry) == mark and 1
  elseif answer ~= '' then
    local written = redis.pcall('HSET', page, entry, answer)
    kept[i] = type(written) == 'number' and call('PEXPIRE', page, ARGV[3])
  elseif redis.pcall('HGET', page, entry) == mark then
    call('HDEL', page, entry)
    -- Deletes a page that holds nothing but the token of its delivery (`by`).
    if call('HLEN', page) == 1 and call('HEXISTS', page, 'by') == 1 then call('DEL', page) end
    kept[i] = 1
  else
    kept[i] = 1
  end
  if kept[i] and note ~= '' then
    local is_paid = string.sub(note, 1, 8) ~= 'possible'
    local added = call('HSET', page, '$' .. string.sub(mark, 2), note, unpack(is_paid and { 'paid', '1' } or {}))
    -- The first answer that the job has paid for.
    if added == 2 then add('spend:day:' .. today, job_type .. '|jobs', '1', DAYS) end
  end
end

local BOOKED = 'spend:booked:' .. replica
local first = 5 + 5 * #KEYS
local booked = first <= #ARGV and whole(call('GET', BOOKED)) or 0
local before = booked
for at = first, #ARGV, 10 do
  local number, id, kind, amount, student, row, prompt, cached, completion, reasoning = unpack(ARGV, at, at + 9)
  if tonumber(number) > booked then
    booked = tonumber(number)
    if not release(OPEN, id) then take_back(id) end
    if kind ~= 'nothing' then
      book(replica .. ':' .. id, kind, amount, row, student, { ['in'] = prompt, cached = cached, out = completion, reasoning = reasoning })
    end
  end
end
if booked > before then call('SET', BOOKED, string.format('%.0f', booked), 'EX', 2 * 86400) end

if ARGV[4] == '1' then
  -- All calls of this replica are booked. A reservation that is still open came from a script that Redis ran late.
  for _, id in ipairs(call('HKEYS', OPEN)) do release(OPEN, id) end
  call('ZREM', REPLICAS, replica)
else
  call('ZADD', REPLICAS, now + lease, replica)
end
for _, name in ipairs(call('ZRANGEBYSCORE', REPLICAS, '-inf', now, 'LIMIT', 0, 2)) do
  if sweep(name) then call('ZREM', REPLICAS, name) end
end
return { kept, string.format('%.0f', booked) }
