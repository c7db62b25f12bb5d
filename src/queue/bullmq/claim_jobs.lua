-- Fourth prelude, of the scripts that claim.
-- ARGV of these scripts
--      1 worker  2 claim number  3 how many  4 bytes of payloads after which no further job is taken  5 lock ms
--      6 s for which the number is remembered  7 bytes of payloads that the answer may hold
--      8 field of the payload that names a job's owner, or '' where the line is not shared fairly
--      9 are jobs claimed while some have no place in that line yet 0|1
--      10 jobs that an owner may have in flight, 0: any number

-- Jobs that a claim gives a place in the fair line at most.
local AT_A_CLAIM = 128

-- Claims jobs into free slots: promotes what is due, takes what waits, then what is prioritized, within the queue's own
-- limits. A job that must not run, because a child of it has failed or because a scheduler made it, ends here.
-- The caller has read what a claim writes to (`expect_active`).
-- Returns {jobs, ghosts, refused, how many jobs have to be given their places first}: {id, name, payload|false, opts, attempt, waited_ms, 1 for a first claim, deliveries
-- lost so far, 1 for a payload left out}…, ids without a job…, {id, reason}…
-- A number that was carried out before returns what is left of it, and claims nothing more. Where jobs have to be given
-- their places first, nothing is claimed, and the number is not used up.
local function claim(want, now)
  local worker, number, most_bytes, lock_ms = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[4]), ARGV[5]
  local token, session = worker .. ':' .. ARGV[2], P .. 'bw:session:' .. worker
  local bytes, started = 0, text(now)
  local rows, ghosts, refused = {}, {}, {}
  local MOST_ATTEMPTS = 4294967295 -- The worker stores attempts in 32 bits.
  local FIELDS = { 'name', 'data', 'opts', 'atm', 'bw:waited', 'ats', 'defa', 'rjk', 'stc' }

  -- The job's fields; nil when there is none, or its key is something else. A script copies a payload several times, and
  -- must not be long: one that does not fit the answer is for the caller to read.
  local inline = tonumber(ARGV[7])
  local payloads = {} -- Those that were read for their owners.
  local function read(id)
    local data = payloads[id]
    local size = data and #data or protected('HSTRLEN', P .. id, 'data')
    if type(size) ~= 'number' then return end
    local apart = size > inline
    FIELDS[2] = (apart or data) and '' or 'data'
    local m = call('HMGET', P .. id, unpack(FIELDS))
    if data and not apart then m[2] = data end
    if not (m[1] or m[2] or m[3] or apart) then return end
    m.size, m.apart = size, apart
    if not apart then inline = inline - size end
    return m
  end

  local function row(id, m, claims)
    bytes = bytes + m.size
    local attempt = min(count(m[4], 0) + 1, MOST_ATTEMPTS)
    return {
      id,
      m[1] or '',
      m[2],
      m[3] or '',
      attempt,
      count(m[5], 0),
      claims == 1 and 1 or 0,
      count(m[9], 0),
      m.apart and 1 or 0,
    }
  end

  if number <= count(call('GET', session), 0) then
    -- The newest are in front. What lies deeper by now comes back as a stray.
    for _, id in ipairs(call('LRANGE', P .. 'active', 0, 299)) do
      local m = claim_of(id, token, math.huge) == token and read(id)
      if m then
        lock(id, token, lock_ms)
        rows[#rows + 1] = row(id, m, count(m[6], 1))
      end
    end
    return { rows, ghosts, refused, 0 }
  end
  -- Other keys are checked when they are written: a claim that an error cuts short is taken up by its number.
  for _, list in ipairs({ 'wait', 'paused' }) do
    call('LLEN', P .. list)
  end
  call('ZCARD', P .. 'marker')
  promote(now)
  local order = orders(P)
  local room, places, rate = order[3] and 0 or want, tonumber(order[2] or nil), tonumber(order[4] or nil)
  if places then room = min(room, places - call('LLEN', P .. 'active')) end
  if rate then
    local taken = tonumber(call('GET', P .. 'limiter') or nil) or 0
    if taken >= rate and call('PTTL', P .. 'limiter') <= 0 then
      call('DEL', P .. 'limiter')
      taken = 0
    end
    room = min(room, rate - taken)
  end

  local line = wait_line(ARGV[8])
  local fair, clears
  local busy = open_busy(line, tonumber(ARGV[10]))
  local waiting = call('LLEN', line.list)
  if not order[3] and not busy then fair = ready_line(line, room, waiting) end
  if
    not fair
    and not order[3]
    and ((waiting > max(room, 0) or busy and waiting > 0) and line.key ~= '' or call('EXISTS', line.state) == 1)
  then
    -- Most of a short line is claimed in the script that looks for its owners.
    if waiting <= 4 * room then line.payloads = payloads end
    fair, clears = open_line(line, AT_A_CLAIM, {}, busy)
    if ARGV[9] == '0' and (clears or fair and fair.without_place > 0) then
      if fair then fair.save() end
      return { rows, ghosts, refused, fair and fair.without_place or 1 }
    end
  end
  -- The jobs with a priority are next.
  local level
  local prioritized = call('ZCARD', P .. 'prioritized')
  if not order[3] and prioritized > 0 and room > waiting then
    level = open_level(line, room - waiting, AT_A_CLAIM, {}, busy)
    if level and level.without_place > 0 and ARGV[9] == '0' then
      level.save()
      if fair then fair.save() end
      return { rows, ghosts, refused, level.without_place }
    end
  end
  call('SET', session, ARGV[2], 'EX', ARGV[6])
  if fair and room <= 0 then fair.save() end

  -- The next jobs in line, at most so many, which are among the claimed ones then.
  local scores, out_of_line = {}, false
  local function take(most)
    local ids = {}
    if most > 0 then ids = fair and fair.take(most) or not (fair or busy) and call('RPOP', P .. 'wait', most) or {} end
    if #ids < most then
      if prioritized > 0 then
        local urgent, lowest = take_prioritized(level, line, most - #ids, busy, #ids + #rows)
        level = nil
        for _, id in ipairs(urgent) do
          ids[#ids + 1], scores[id] = id, lowest[id]
        end
        prioritized = call('ZCARD', P .. 'prioritized')
      else
        clear_levels()
      end
      out_of_line = #ids < most and prioritized == 0
    end
    if #ids > 0 then call('LPUSH', P .. 'active', unpack(ids)) end
    return ids
  end

  -- Puts back the last that was taken, where it stood.
  local function put_back(id)
    call('LREM', P .. 'active', 1, id)
    if scores[id] then
      call('ZADD', P .. 'prioritized', scores[id], id)
      out_of_line = false
    else
      call('RPUSH', P .. 'wait', id)
      returned(id)
    end
  end

  local function unsupported(m)
    if m[7] then return m[7] end
    -- Looked for as text first, which spares decoding the options of every job.
    if m[8] or (string.find(m[3] or '', '"repeat"', 1, true) and options(m[3])['repeat']) then
      return 'made by a job scheduler, whose next run only a BullMQ worker would create: retry it there'
    end
  end

  local function start(id, m)
    local ats, reason = count(m[6], 0) + 1, unsupported(m)
    if reason then expect_ends('failed') end
    lock(id, token, lock_ms)
    call(
      'HSET',
      P .. id,
      'ats',
      text(ats),
      'processedOn',
      started,
      'pb',
      worker,
      'bw:claim',
      mark(token, ats),
      unpack(reason and {} or { 'progress', '10' })
    )
    emit(P, 'active', 'jobId', id, 'prev', 'waiting')
    if rate and count_up(P .. 'limiter') == 1 then call('PEXPIRE', P .. 'limiter', max(1, count(order[5], 1000))) end
    if reason then
      blame(id, reason)
      finish(id, call('HMGET', P .. id, unpack(ENDING)), token, 'failed', reason, now)
      tidy(now)
      refused[#refused + 1] = { id, reason }
    else
      report(id, '10')
      rows[#rows + 1] = row(id, m, ats)
    end
  end

  local ids = take(room)
  while #ids > 0 do
    local full
    for i, id in ipairs(ids) do
      full = bytes >= most_bytes
      if full then
        for last = #ids, i, -1 do
          put_back(ids[last])
        end
        break
      end
      local m = read(id)
      if m then
        start(id, m)
      else
        call('LREM', P .. 'active', 1, id)
        ghosts[#ghosts + 1] = id
      end
    end
    ids = take((full or #ghosts >= 100) and 0 or room - #rows - #refused)
  end

  if out_of_line then call('DEL', P .. 'pc') end -- Restarts the counter that orders jobs of equal priority.
  if busy then
    busy.is_short = #rows + #refused < room
    busy.save(tonumber(lock_ms))
  end
  -- Jobs that may not start are no reason to look: the end of one is (`let_go`).
  if room > 0 and not (busy and busy.passed and busy.is_short) and has_work(P) then
    local _, free = target(P)
    if free then wake(P) end
  end
  return { rows, ghosts, refused, 0 }
end
