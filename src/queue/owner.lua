-- Prelude of the scripts of the fair line: reads the owner of a job out of its payload. The payload is not decoded: it may
-- be large, and anything may stand in it.

-- Longest name of an owner, bytes: longer ones are cut.
local LONGEST_OWNER = 128
local find, byte, sub, match, gsub = string.find, string.byte, string.sub, string.match, string.gsub

-- How many more objects and lists are open at the end of a piece of a JSON text than at its beginning. No string crosses
-- either end.
local function opened_in(piece)
  local bare = gsub(gsub(piece, '\\.', ''), '"[^"]*"', '')
  local _, opened = gsub(bare, '[{%[]', '')
  local _, closed = gsub(bare, '[}%]]', '')
  return opened - closed
end

-- The value of a field of a JSON object, `depth` objects deep, as the text that names an owner; '' where there is none.
-- `quoted` is the field's name in quotes. However often the name stands in the payload, each byte is passed over a fixed
-- number of times.
local function owner_in(json, quoted, depth)
  local from, known, open, brace, bracket = 1, 0, 0, nil, nil -- `open` objects and lists behind the first `known` bytes.
  for _ = 1, 20 do
    local first, last = find(json, quoted, from, true)
    if not first then return '' end
    local before = byte(json, first - 1)
    local is_field = before == 44 or before == 123 -- , {
    if not is_field then is_field = find(sub(json, max(1, first - 64), first - 1), '[{,]%s*$') end
    local value = is_field and match(json, '^%s*:%s*()', last + 1)
    if value then
      if depth == 1 and not brace then
        brace, bracket = find(json, '{', 2, true) or math.huge, find(json, '[', 2, true) or math.huge
      end
      local is_plain = depth == 1 and brace > first and bracket > first
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
