-- Reads what has to be written beside the completion of a job with a large result.
-- KEYS 1 prefix
-- ARGV 1 job id  2 claim token
-- Returns {1 held, 0 lost, 2 written before; 1 if the result is in its place; key of the web API's entry; key of the
-- parent's results; length of the event stream; now in ms}; a key that there is none of is empty.
local id, token = ARGV[1], ARGV[2]
expect_active()
call('ZCARD', P .. 'completed')
local m = call('HMGET', P .. id, unpack(ENDING))
local held = standing(id, token, m)
if held ~= 'held' then return { refusal(held) * 2, 0, '', '', '0', '0' } end
local cached, parent, key = '', '', options(m[3]).idempotencyKey
if type(key) == 'string' and key:find('^idempotency:') then cached = 'idempotency:' .. key:sub(13) end
if m[4] and protected('SISMEMBER', m[4] .. ':dependencies', P .. id) == 1 then
  call('HLEN', m[4] .. ':processed')
  parent = m[4] .. ':processed'
end
return { 1, m[PLACED] == token and 1 or 0, cached, parent, orders(P)[1], text(now_ms()) }
