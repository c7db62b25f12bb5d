-- An operator's look at the gate, or hand on the breaker.
-- KEYS  as in common.lua
-- ARGV  2 status | close | open  3 open for ms
-- Returns {{state before, state, failures, successes, opened_at ms or nil, probes and successes in HALF_OPEN,
--           since when it is not CLOSED, ms or nil, until when it is OPEN, ms or nil,
--           the account's fault that the last counted call failed for, or '', and when, ms or nil},
--          {calls in flight, requests in the window, tokens in the window, throttled until ms (0 no), now ms}}
local before = state
if ARGV[2] == 'close' then
  enter('CLOSED')
  forget_openings()
elseif ARGV[2] == 'open' then
  enter('OPEN')
end

local requests, tokens = 0, 0
local win = call('HGETALL', WIN)
for i = 1, #win, 2 do
  local kind, bucket = string.match(win[i], '^([rt])(%d+)$')
  if kind and tonumber(bucket) >= floor(now / BUCKET) - BUCKETS then
    local count = tonumber(win[i + 1]) or 0
    if kind == 'r' then requests = requests + count else tokens = tokens + count end
  end
end
local counts = call('MGET', FAILURES, ATTEMPTS)
return {
  { before, state, whole(counts[1]) or 0, successes, opened_at or false, whole(counts[2]) or 0,
    state ~= 'CLOSED' and (whole(call('HGET', META, 'left')) or opened_at) or false,
    state == 'OPEN' and opened_at and opened_at + open_time(tonumber(ARGV[3])) or false,
    fault or '', fault and tonumber(string.match(meta[6] or '', '^(%d+)')) or false },
  { call('ZCOUNT', LEASES, '(' .. now, '+inf'), max(0, requests), max(0, tokens),
    whole(call('HGET', WIN, 'throttled')) or 0, now },
}
