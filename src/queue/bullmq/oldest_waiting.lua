-- The age of the job that is next in line: since it was added, or since it was first due where it was delayed.
-- KEYS 1 prefix
-- Returns ms, 0 where nothing waits.
local oldest = 0
for _, id in ipairs({
  call('LINDEX', P .. 'wait', -1) or false,
  call('LINDEX', P .. 'paused', -1) or false,
  call('ZRANGE', P .. 'prioritized', 0, 0)[1] or false,
}) do
  local m = id and protected('HMGET', P .. id, 'timestamp', 'opts') or {}
  local added = not m.err and tonumber(m[1] or nil)
  if added then
    local delay = tonumber(decode(m[2]).delay or nil) or 0
    oldest = min(max(oldest, now_ms() - added - delay), 1e13)
  end
end
return floor(oldest)
