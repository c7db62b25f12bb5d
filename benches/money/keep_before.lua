-- Keeps the answers of paid calls. Any delivery may bring one: it is the answer to the same question.
-- KEYS 1… the page of each call's job
-- ARGV 1 time to live, ms  2… of each call: entry, answer
-- Returns for each 1, or nil where the page is none.
local kept = {}
for i, page in ipairs(KEYS) do
  local written = redis.pcall('HSET', page, ARGV[2 * i], ARGV[2 * i + 1])
  kept[i] = type(written) == 'number' and redis.call('PEXPIRE', page, ARGV[1])
end
return kept
