-- Settles the permits of calls that have ended, then asks for permits for others: what was freed can be granted.
-- KEYS  10, as in common.lua
-- ARGV  1 as in common.lua  2 open for ms  3 probes of HALF_OPEN at most  4 success threshold
--       5 requests a minute  6 tokens a minute  7 calls in flight (0 no limit)
--       8 failure threshold  9 failure window ms  10 failure share, percent  11 how many have ended
--       12… the arguments of settle.lua for each of these, then the arguments of admit.lua for each call
-- Returns {the answers of settle.lua, the answers of admit.lua}
local settled, admitted, next = {}, {}, 12 + 4 * tonumber(ARGV[11])
if next > 12 then settled = settle_all(12, next - 1) end
if next < #ARGV then admitted = admit_all(next, #ARGV) end
return { settled, admitted }
