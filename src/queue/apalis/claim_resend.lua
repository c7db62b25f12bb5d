-- Returns what is left of a claim that was carried out before, out of a stretch of this worker's jobs.
-- KEYS 1 inflight of this worker  2 data
-- ARGV 1 claim token  2 where to go on  3 stretch  4 bytes of payloads that the answer may hold  5 meta prefix
--      6 attempts where the producer named none
-- Returns {rows, where to go on, '0' at the end}.
local scan = call('SSCAN', KEYS[1], ARGV[2], 'COUNT', ARGV[3])
local add_row, rows = row_maker(KEYS[2], tonumber(ARGV[4]), tonumber(ARGV[6]))
for _, id in ipairs(scan[2]) do
  local m = read_meta(ARGV[5] .. id, unpack(CLAIM_FIELDS))
  if m[4] == ARGV[1] then add_row(id, count(m[1], 1), m) end
end
return { rows, scan[1] }
