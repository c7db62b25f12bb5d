-- Prelude of the scripts of the fair line: reads the owner of a job out of its payload. The payload is not decoded: it may
-- be large, and anything may stand in it.

-- Longest name of an owner, bytes: longer ones are cut.
local LONGEST_OWNER = 128
local find, byte, sub, match, gsub = string.find, string.byte, string.sub, string.match, string.gsub

-- Strings and brackets that are passed one by one.
local MOST_STEPS = 300

-- How many more objects and lists are open at the end of a piece of a JSON text than at its beginning. No string crosses
-- either end.
local function opened_in(piece)
  local at, open, steps = 0, 0, 0
  repeat
    -- From bracket to bracket, past the strings: most of a payload is in a few of these.
    at = find(piece, '["{}%[%]]', at + 1)
    if not at then return open end
    local c = byte(piece, at)
    if c == 34 then -- "
      local ends
      repeat
        at, steps = find(piece, '"', at + 1, true), steps + 1
        ends = not at or byte(piece, at - 1) ~= 92 or #match(sub(piece, max(1, at - 64), at - 1), '\\*$') % 2 == 0
      until ends or steps > MOST_STEPS
      if not at then return open end
    else
      open, steps = open + ((c == 123 or c == 91) and 1 or -1), steps + 1
    end
  until steps > MOST_STEPS
  local bare = gsub(gsub(piece, '\\.', ''), '"[^"]*"', '')
  local _, opened = gsub(bare, '[{%[]', '')
  local _, closed = gsub(bare, '[}%]]', '')
  return opened - closed
end

-- Before which byte of a JSON text a field is `depth` (1 or 2) objects deep, as far as that can be seen from the first
-- brackets.
local function plain_until(json, depth)
  local known
  local at = depth == 1 and 1 or find(json, '{', 2, true)
  if not at or depth == 2 and byte(json, at - 1) ~= 58 then return 0 end -- :
  for _, bracket in ipairs({ '{', '}', '[', ']' }) do
    local found = find(json, bracket, bracket == '{' and at + 1 or 2, true)
    if found and (not known or found < known) then known = found end
  end
  return known or 0
end

-- The value of a field of a JSON object, `depth` objects deep, as the text that names an owner; '' where there is none.
-- `quoted` is the field's name in quotes. The script reads each byte a fixed number of times, no matter how often the
-- name occurs in the payload.
local function owner_in(json, quoted, depth)
  local from, known, open, plain = 1, 0, 0, nil -- `open` objects and lists behind the first `known` bytes.
  for _ = 1, 20 do
    local first, last = find(json, quoted, from, true)
    if not first then return '' end
    local before = byte(json, first - 1)
    local is_field = before == 44 or before == 123 -- , {
    if not is_field then is_field = find(sub(json, max(1, first - 64), first - 1), '[{,]%s*$') end
    local value = is_field and match(json, '^%s*:%s*()', last + 1)
    if value then
      plain = plain or plain_until(json, depth)
      local is_plain = first < plain
      if not is_plain then open, known = open + opened_in(sub(json, known + 1, first - 1)), first - 1 end
      if is_plain or open == depth then
        if byte(json, value) == 34 then return match(sub(json, value + 1, value + LONGEST_OWNER), '^[^"]*') end -- "
        return match(sub(json, value, value + LONGEST_OWNER - 1), '^-?%d[%d.eE+-]*') or ''
      end
    end
    from = last + 1
  end
  return ''
end
