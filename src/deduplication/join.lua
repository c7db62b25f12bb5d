-- Asks what becomes of a job that may be equal to others: it gets their result, waits for it, or leads.
-- KEYS 1 result of equal jobs
-- ARGV 1 prefix of the equal jobs' keys  2 is the result passed over 0|1, because it cannot be used
--      of the job's claim: 3 key of its lock or hash  4 token  5 zset of leases, or ''  6 worker
--      7 how long a leader is remembered, ms
-- Returns {'found', entry}, {'led', ms for which the leader's claim still holds}, or {'leads', 'foreign' where the result's
-- key holds anything but a text of a result's size}. Sent again, it returns the same.
local equal, claim, token = ARGV[1], ARGV[3], ARGV[4]
-- No result is larger, bytes.
local LARGEST = 8388608
local size = protected('STRLEN', KEYS[1])
local is_foreign = type(size) ~= 'number' or size > LARGEST
if not is_foreign and size > 0 and ARGV[2] == '0' then return { 'found', call('GET', KEYS[1]) } end

local time = call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local leader = equal .. ':leader'
local m = protected('HMGET', leader, 'claim', 'token')
if m.err then
  call('DEL', leader)
elseif m[1] ~= claim or m[2] ~= token then
  local left = leader_left(equal, now)
  if left then return { 'led', string.format('%.0f', left) } end
end
call('HSET', leader, 'claim', claim, 'token', token, 'leases', ARGV[5], 'worker', ARGV[6])
call('PEXPIRE', leader, ARGV[7])
return { 'leads', is_foreign and 'foreign' or '' }
