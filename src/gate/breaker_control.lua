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

local totals, gone = { r = 0, t = 0, q = 0, u = 0 }, floor((now - WINDOW - GRACE) / SLICE) - 1
local win = call('HGETALL', WIN)
for i = 1, #win, 2 do
  local kind, number = string.match(win[i], '^([rtqu])(%d+)$')
  number = tonumber(number)
  local slices = kind == 'q' or kind == 'u'
  local first = floor(now / BUCKET) - BUCKETS
  -- A bucket still includes requests that have left the window.
  if kind and (slices and number <= gone and number >= first * (BUCKET / SLICE) or not slices and number >= first) then
    totals[kind] = totals[kind] + (tonumber(win[i + 1]) or 0)
  end
end
local requests, tokens = totals.r - totals.q, totals.t - totals.u
local counts = call('MGET', FAILURES, ATTEMPTS)
return {
  {
    before,
    state,
    whole(counts[1]) or 0,
    successes,
    opened_at or false,
    whole(counts[2]) or 0,
    state ~= 'CLOSED' and (whole(call('HGET', META, 'left')) or opened_at) or false,
    state == 'OPEN' and opened_at and opened_at + open_time(tonumber(ARGV[3])) or false,
    fault or '',
    fault and tonumber(string.match(meta[6] or '', '^(%d+)')) or false,
  },
  {
    call('ZCOUNT', LEASES, '(' .. now, '+inf'),
    max(0, requests),
    max(0, tokens),
    whole(call('HGET', WIN, 'throttled')) or 0,
    now,
  },
}
