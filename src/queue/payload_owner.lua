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

-- Before which byte of a JSON text a field is `depth` (1 or 2) objects deep, and behind which, as far as that can be seen
-- from the first brackets.
local function plain_between(json, depth)
  local at = depth == 1 and 1 or find(json, '{', 2, true)
  if not at or depth == 2 and byte(json, at - 1) ~= 58 then return 0, 0 end -- :
  -- A bracket that closes before any has opened stands in a string, or the text is no JSON.
  local object, list = find(json, '{', at + 1, true), find(json, '[', 2, true)
  if not object or list and list < object then return at, list or #json end
  return at, object
end

-- The text from a byte to the next quote, as far as an owner's name may go.
local function name_at(json, from)
  local quote = find(json, '"', from, true)
  return sub(json, from, min(quote and quote - 1 or #json, from + LONGEST_OWNER - 1))
end

-- The value of a field of a JSON object, `depth` objects deep, as the text that names an owner; '' where there is none.
-- `quoted` is the field's name in quotes. The script reads each byte a fixed number of times, no matter how often the
-- name occurs in the payload.
local function owner_in(json, quoted, depth)
  local first, last = find(json, quoted, 1, true)
  if not first then return '' end
  local behind, plain = plain_between(json, depth)
  -- Most payloads: the name occurs once, as that of a field that is a text, without blanks and before other brackets.
  local before = byte(json, first - 1)
  if first > behind and first < plain and (before == 44 or before == 123) then -- , {
    local name = match(json, '^:"([^"]*)"', last + 1)
    if name and #name <= LONGEST_OWNER then return name end
  end
  local known, open = 0, 0 -- `open` objects and lists behind the first `known` bytes.
  for _ = 1, 20 do
    before = byte(json, first - 1)
    local is_field = before == 44 or before == 123
    if not is_field then is_field = find(sub(json, max(1, first - 64), first - 1), '[{,]%s*$') end
    local value = is_field and match(json, '^%s*:%s*()', last + 1)
    if value then
      local is_plain = first > behind and first < plain
      if not is_plain then
        open, known = open + opened_in(sub(json, known + 1, first - 1)), first - 1
      end
      if is_plain or open == depth then
        if byte(json, value) == 34 then return name_at(json, value + 1) end -- "
        return match(sub(json, value, value + LONGEST_OWNER - 1), '^-?%d[%d.eE+-]*') or ''
      end
    end
    first, last = find(json, quoted, last + 1, true)
    if not first then return '' end
  end
  return ''
end
