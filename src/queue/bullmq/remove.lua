-- Removes a job that is not active, as Job.remove of BullMQ does. A job with children is left to BullMQ, which removes these
-- too.
-- KEYS 1 prefix
-- ARGV 1 job id  2, 3 its place in the lists of those that wait, and that are paused: see `list_removal.lua`
-- Returns 'removed', 'unknown', 'active', 'scheduled' (the next run of a job scheduler), 'parent', or false where the
-- caller has to look for its place.
local id = ARGV[1]
local key = P .. id
expect_ends('completed', 'failed', 'waiting-children')
if call('EXISTS', key .. ':lock') == 1 or call('LPOS', P .. 'active', id) then return 'active' end

local m = protected('HMGET', key, 'name', 'data', 'opts', 'deid', 'rjk')
local is_job = not m.err and (m[1] or m[2] or m[3])
-- Of a scheduler's own hash, an id may be taken out of a list, no more.
local scheduler = id:match('^repeat:(.+)$')
if scheduler and tonumber(protected('ZSCORE', P .. 'repeat', scheduler) or nil) then is_job = false end
if is_job then
  local due = m[5] and protected('ZSCORE', P .. 'repeat', m[5])
  if type(due) == 'string' and id == 'repeat:' .. m[5] .. ':' .. due then return 'scheduled' end
  if call('EXISTS', key .. ':dependencies', key .. ':processed', key .. ':failed', key .. ':unsuccessful') > 0 then
    return 'parent'
  end
end

local function take_out()
  for _, set in ipairs({ 'completed', 'waiting-children', 'delayed', 'failed', 'prioritized' }) do
    if call('ZREM', P .. set, id) == 1 then return set end
  end
  for i, list in ipairs({ 'wait', 'paused' }) do
    local taken = take_out_of_line(P .. list, 'head', id, ARGV[i + 1])
    if taken or taken == nil then return list, taken == nil end
  end
end

local from, unseen = take_out()
if unseen then return false end
if not is_job then return from and 'removed' or 'unknown' end
-- A key outside of every list, whose name is not a job's, belongs to another program.
if not from and id:find(':', 1, true) then return 'unknown' end
if m[4] and protected('GET', P .. 'de:' .. m[4]) == id then call('DEL', P .. 'de:' .. m[4], P .. 'dn:' .. m[4]) end
forget(id, now_ms())
bury()
call('SREM', P .. 'stalled', id)
emit(P, 'removed', 'jobId', id, 'prev', from or 'unknown')
return 'removed'
