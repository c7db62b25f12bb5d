-- Says when to look for work.
-- KEYS 1 prefix
-- Returns 0 for now, ms until something is due, or -1 when nothing is known.
local now, wait = now_ms(), -1
local due = next_due(P)
if due then
  if due <= now then return 0 end
  wait = due - now
end
-- Where the owners of all that wait have as many jobs in flight as they may, the end of one of these is announced.
if has_work(P) and call('EXISTS', P .. 'bw:fair:full') == 0 then
  local m = call('HMGET', P .. 'meta', 'paused', 'concurrency', 'max')
  local rest = 0
  if m[1] then
    rest = -1
  elseif m[2] and call('LLEN', P .. 'active') >= (tonumber(m[2]) or math.huge) then
    rest = 1000 -- A worker of another make frees a place without a word.
  elseif m[3] and (tonumber(call('GET', P .. 'limiter') or nil) or 0) >= (tonumber(m[3]) or math.huge) then
    rest = max(0, call('PTTL', P .. 'limiter'))
  end
  if rest >= 0 and (wait < 0 or rest < wait) then wait = rest end
end
return wait
