-- Prelude of the scripts that add to the sums of days and months, behind books.lua.
-- How long sums stay, s: days, and months.
local DAYS, MONTHS = 100 * 86400, 400 * 86400

-- A whole number as text. Redis before 7.2 takes as long to write a number that a script gives it as to add to a field.
local function digits(n) return string.format('%d', n) end

-- Adds to a field of a hash that expires; says whether the field is new. `text` is the amount as text, where it is known.
local function add(key, field, amount, ttl, text)
  if call('HINCRBY', key, field, text or digits(amount)) ~= amount then return false end
  call('EXPIRE', key, ttl)
  return true
end
