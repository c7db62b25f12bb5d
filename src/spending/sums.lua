-- Prelude of the scripts that add to the sums of days and months, behind books.lua.
-- How long sums stay, s: days, and months.
local DAYS, MONTHS = 100 * 86400, 400 * 86400

-- Adds to a field of a hash that expires; says whether the field is new.
local function add(key, field, amount, ttl)
  if call('HINCRBY', key, field, amount) ~= amount then return false end
  call('EXPIRE', key, ttl)
  return true
end
