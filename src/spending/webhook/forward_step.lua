-- One step of the forwarder of usage events: takes or renews its lease, moves the cursor behind the events that are
-- delivered, and reads the next ones. One replica of the fleet holds the lease.
-- KEYS  1 the stream of events  2 state of the forwarder  3 the stream of refused events
-- ARGV  1 replica  2 duration of the lease, ms  3 the last event that is delivered, with all before it ('' none)
--       4 how many events that were  5 events to read; 0 reads none, -1 gives up the lease
--       6 delivered events that stay in the stream  7 refused events that stay in theirs
--       8… refused events among the delivered ones: id, why
-- Returns {1, events, overflow} to the holder (`overflow` 1: events were trimmed before they were delivered), or
-- {0, ms until the lease of another replica ends}
-- Sent again, it moves nothing twice: a cursor that is behind its place already stays.
local call, floor = redis.call, math.floor
local events, state, refused = KEYS[1], KEYS[2], KEYS[3]
local replica, lease, delivered, count, wanted =
  ARGV[1], tonumber(ARGV[2]), ARGV[3], tonumber(ARGV[4]), tonumber(ARGV[5])
local stay = tonumber(ARGV[6])
-- Delivered events that one script removes at most: more than it can add to them.
local MOST_REMOVED = 200

local function later(one, other)
  local ms, seq = string.match(one, '^(%d+)-(%d+)$')
  local other_ms, other_seq = string.match(other, '^(%d+)-(%d+)$')
  if not ms or not other_ms then return ms ~= nil end
  ms, seq, other_ms, other_seq = tonumber(ms), tonumber(seq), tonumber(other_ms), tonumber(other_seq)
  return ms > other_ms or (ms == other_ms and seq > other_seq)
end

local time = call('TIME')
local now = tonumber(time[1]) * 1000 + floor(tonumber(time[2]) / 1000)
local found = call('HMGET', state, 'holder', 'until', 'cursor', 'kept')
local holder, ends, cursor, kept = found[1], tonumber(found[2] or 0) or 0, found[3], tonumber(found[4] or 0) or 0
if holder and holder ~= '' and holder ~= replica and ends > now then return { 0, ends - now } end

if not cursor then
  -- The first forwarder of this fleet begins with the events that are still to come.
  local last = call('XREVRANGE', events, '+', '-', 'COUNT', 1)[1]
  cursor = last and last[1] or '0-0'
  kept = call('XLEN', events)
end
if delivered ~= '' and holder == replica and later(delivered, cursor) then
  for i = 8, #ARGV, 2 do
    local event = call('XRANGE', events, ARGV[i], ARGV[i])[1]
    if event then
      local copy = { 'XADD', refused, 'MAXLEN', '~', ARGV[7], '*', 'event', event[1], 'why', ARGV[i + 1] }
      for _, text in ipairs(event[2]) do
        copy[#copy + 1] = text
      end
      call((table.unpack or unpack)(copy))
    end
  end
  cursor, kept = delivered, kept + count
end

-- Delivered events stay for other readers of the stream, up to a number.
local surplus = math.min(kept - stay, MOST_REMOVED)
if surplus > 0 then
  local old = call('XRANGE', events, '-', '+', 'COUNT', surplus)
  local last = old[#old]
  if last and not later(last[1], cursor) then kept = kept - call('XTRIM', events, 'MINID', last[1]) end
end

local overflow, answer = 0, {}
if wanted > 0 then
  if kept > 0 and cursor ~= '0-0' and not call('XRANGE', events, cursor, cursor)[1] then
    -- The last delivered event is always kept. It is gone: the stream has reached its bound.
    overflow, kept = 1, 0
  end
  answer = call('XRANGE', events, '(' .. cursor, '+', 'COUNT', wanted)
  if not answer[1] then kept = call('XLEN', events) end
end
if wanted < 0 then
  replica, lease = '', 0
end
call(
  'HSET',
  state,
  'holder',
  replica,
  'until',
  string.format('%.0f', now + lease),
  'cursor',
  cursor,
  'kept',
  string.format('%.0f', math.max(kept, 0))
)
return { 1, answer, overflow }
