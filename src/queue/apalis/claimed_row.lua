-- Second prelude, of the scripts that hand out claimed jobs.
local CLAIM_FIELDS = { 'attempts', 'max_attempts', 'waited', 'claim', 'locked_by', 'status', 'lost', 'idempotency_key' }

-- Makes rows of claimed jobs: {id, payload, attempt, max_attempts, waited_ms, 1 for a first claim, deliveries lost so far,
-- 1 for a payload left out, the key that its producer names or ''}. The payload is false where there is none, or where it is left out: a script copies it several times, and must not
-- be long, so one that does not fit `most_bytes` is for the caller to read.
-- `payloads` are those that have been read, by id.
-- Returns add(id, attempt, meta), which returns the bytes of the payload; and the rows.
local function row_maker(data, most_bytes, default_max, payloads)
  local rows, bytes = {}, 0
  return function(id, attempt, m)
    local known = payloads and payloads[id]
    local size = known and #known or call('HSTRLEN', data, id)
    local apart = bytes + size > most_bytes
    if not apart then bytes = bytes + size end
    rows[#rows + 1] = {
      id,
      not apart and (known or call('HGET', data, id)),
      attempt,
      max(1, count(m[2], default_max)),
      count(m[3], 0),
      m[4] and 0 or 1,
      count(m[7], 0),
      apart and 1 or 0,
      m[8] or '',
    }
    return size
  end,
    rows
end
