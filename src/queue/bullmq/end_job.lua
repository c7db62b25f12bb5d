-- Second prelude, of the scripts that can end a job.

-- How many ended jobs to keep, and for how many ms: by the job's option, else by the worker's setting. nil means all
-- jobs, or without limit of time.
local function retention(rule, default_count, default_ms)
  if rule == nil then return default_count, default_ms end
  if rule == true then return 0 end
  if type(rule) ~= 'table' then return count(rule, nil) end
  local seconds = tonumber(rule.age)
  -- One that is not itself is no number, and no time.
  return count(rule.count, nil), seconds and seconds == seconds and seconds * 1000 or nil
end

-- Checks the types of the keys that a script writes when a job ends.
local function expect_ends(...)
  expect_claims()
  expect(P, ...)
end

-- Checks the types of the keys that a script writes when it reports to a parent.
local function expect_parent(p)
  expect_lines(p)
  expect(p, 'waiting-children', 'failed')
end

local function complain(about, problem)
  redis.log(redis.LOG_WARNING, 'bullmq: ' .. about .. ': ' .. cjson.encode({ problem }))
end

-- A parent runs when no child is left to wait for.
local function release_parent(queue, id, now)
  local p, key = queue .. ':', queue .. ':' .. id
  if call('EXISTS', key) == 0 or call('ZREM', p .. 'waiting-children', id) == 0 then return end
  local delay = count(call('HGET', key, 'delay'), 0)
  if delay > 0 then
    put_off(p, id, now + delay)
  else
    -- In front among the waiting, behind its equals among the prioritized, as Node does it.
    make_ready(p, id, count(call('HGET', key, 'priority'), 0) == 0, 'waiting-children')
  end
end

-- Tells a job's parent how the job ended.
local function tell_parent(id, opts, parent_key, done, value, now, is_placed)
  if not parent_key then return end
  local child = P .. id
  local parent = decode(call('HGET', child, 'parent'))
  local queue, parent_id = parent.queueKey, parent.id
  if not queue or not parent_id then
    queue, parent_id = parent_key:match('^(.*):([^:]*)$')
  end
  if not queue then return end
  local key = queue .. ':' .. parent_id
  -- BullMQ 5.1 writes them into the child's options.
  for _, flag in ipairs({ 'fpof', 'rdof' }) do
    parent[flag] = parent[flag] or opts[flag]
  end
  if not done and not (parent.fpof or parent.cpof or parent.idof or parent.rdof) then return end
  expect_parent(queue .. ':')
  call('HLEN', key)
  call('HLEN', key .. ':processed')
  call('HLEN', key .. ':failed')
  call('ZCARD', key .. ':unsuccessful')
  if call('SREM', key .. ':dependencies', child) == 0 then return end

  local ready = call('SCARD', key .. ':dependencies') == 0
  if done then
    if not is_placed then call('HSET', key .. ':processed', child, value) end
  elseif parent.fpof then
    call('ZADD', key .. ':unsuccessful', now, child)
    if call('EXISTS', key) == 1 and not call('ZSCORE', queue .. ':failed', parent_id) then
      call('HSET', key, 'defa', 'child ' .. child .. ' failed')
      if call('ZREM', queue .. ':delayed', parent_id) == 1 then
        call('ZADD', queue .. ':waiting-children', now, parent_id)
        call('HSET', key, 'delay', 0)
      end
    end
    ready = true
  elseif parent.cpof or parent.idof then
    call('HSET', key .. ':failed', child, value)
    ready = ready or parent.cpof
  end
  if ready then release_parent(queue, parent_id, now) end
end

-- Ends a parent's wait for a job.
local function untie(key, now)
  local parent = call('HGET', key, 'parentKey') or ''
  local queue, parent_id = parent:match('^(.*):([^:]*)$')
  if not queue then return end
  expect_parent(queue .. ':')
  call('HLEN', parent)
  if call('SREM', parent .. ':dependencies', key) == 1 and call('SCARD', parent .. ':dependencies') == 0 then
    release_parent(queue, parent_id, now)
  end
end

-- Keys that go at the end of a script, in one call.
local doomed = {}
local function bury()
  if #doomed > 0 then call('DEL', unpack(doomed)) end
  doomed = {}
end
local function doom(key)
  doomed[#doomed + 1] = key
  if #doomed == 1000 then bury() end
end

-- Removes the stored keys of a job. The completion of a job already reported to its parent and deleted its page of the
-- ledger; after a completion by BullMQ's own worker the page expires.
local function forget(id, now, completed)
  local key = P .. id
  if not completed then
    local untied, problem = pcall(untie, key, now)
    if not untied then complain(key .. ' is removed, its parent was not told', problem) end
    doom('ledger:' .. key)
  end
  for _, part in ipairs({ '', ':logs', ':dependencies', ':processed', ':failed', ':unsuccessful' }) do
    doom(key .. part)
  end
end

-- Frees the deduplication id that a job holds (one with a time to live stays until then), and adds the job that was
-- put aside while this one held it.
local function free_deduplication(id, deduplication, now)
  if not deduplication then return end
  local holder, aside = P .. 'de:' .. deduplication, P .. 'dn:' .. deduplication
  local ttl, held_by = call('PTTL', holder), call('GET', holder)
  local m = call('HMGET', aside, 'name', 'data', 'opts', 'jid', 'pk', 'pd', 'pdk', 'rjk')
  if m[7] then call('SCARD', m[7]) end
  if m[1] then expect_lines(P) end
  local next_id = m[1] and tostring(call('INCR', P .. 'id'))
  if ttl == 0 or (ttl == -1 and held_by == id) then call('DEL', holder) end
  if not m[1] then return end
  if m[4] and call('EXISTS', P .. m[4]) == 0 then next_id = m[4] end
  local rule = decode(m[3]).de
  local live = type(rule) == 'table' and not rule.keepLastIfActive and count(rule.ttl, 0) or 0
  call('SET', holder, next_id)
  if live > 0 then call('PEXPIRE', holder, live) end
  add_job(next_id, m[1], m[2] or '{}', m[3] or '{}', now)
  call('HSET', P .. next_id, 'deid', deduplication)
  if m[5] then call('HSET', P .. next_id, 'parentKey', m[5], 'parent', m[6] or '') end
  if m[7] then call('SADD', m[7], P .. next_id) end
  if m[8] then call('HSET', P .. next_id, 'rjk', m[8]) end
  call('DEL', aside)
end

-- Where the web API looks before it enqueues the same work again: under the key that it has put into the job's options
-- itself. Any other key is none of its business.
local function cache(key, id, result, now)
  if type(key) ~= 'string' or not key:find('^idempotency:') then return end
  local entry = '{"jobId":' .. cjson.encode(id) .. ',"result":' .. result .. ',"cachedAt":' .. text(now) .. '}'
  call('SET', 'idempotency:' .. key:sub(13), entry, 'EX', 86400)
end

-- Ended jobs that are not in their set yet: {set, keep_count, keep_ms, arguments of ZADD for each}.
local ended

-- To add to a sorted set that is a packed list, as those of up to 128 members are, takes two walks along it. A member
-- that is too long for such a list makes a tree of it, until Redis loads it from a dump.
local TOO_LONG = string.rep('-', 65)
local function plant(set)
  if protected('OBJECT', 'ENCODING', set) == 'skiplist' then return end
  call('ZADD', set, 0, TOO_LONG)
  call('ZREM', set, TOO_LONG)
end

-- Puts them into their set, and forgets a chunk of the oldest ones there beyond the retention.
local function retain(now)
  local set, keep_count, keep_ms = P .. ended.set, ended.keep_count, ended.keep_ms
  local function drop(ids)
    if #ids > 0 then call('ZREM', set, unpack(ids)) end
    for _, id in ipairs(ids) do
      forget(id, now, ended.set == 'completed')
    end
  end

  if #ended.entries > 0 then call('ZADD', set, unpack(ended.entries)) end
  local excess = keep_count and min(call('ZCARD', set) - keep_count, 50) or 0
  if excess > 0 then
    plant(set)
    drop(call('ZRANGE', set, 0, excess - 1))
  end
  if keep_ms then drop(call('ZRANGEBYSCORE', set, '-inf', now - keep_ms, 'LIMIT', '0', '50')) end
end

-- Puts a job into the set of those that ended so: at the end of the script, or where one with another rule follows. `kept`
-- is false of a job of which nothing is kept.
local function file(id, set, now, kept, keep_count, keep_ms)
  if ended and (ended.set ~= set or ended.keep_count ~= keep_count or ended.keep_ms ~= keep_ms) then
    retain(now)
    ended = nil
  end
  ended = ended or { set = set, keep_count = keep_count, keep_ms = keep_ms, entries = {} }
  local entries = ended.entries
  if kept then
    entries[#entries + 1], entries[#entries + 2] = text(now), id
  end
end

-- Finishes the work on ended jobs. A script that ends jobs calls it last, or before it claims.
local function tidy(now)
  if not ended then return end
  retain(now)
  ended = nil
  bury()
  -- The jobs have ended: a foreign key among these costs the event and no more.
  if
    call('LLEN', P .. 'active') == 0
    and protected('ZCARD', P .. 'delayed') == 0
    and protected('LLEN', P .. 'wait') == 0
    and protected('ZCARD', P .. 'prioritized') == 0
    and not orders(P)[3]
  then
    emit(P, 'drained')
  end
end

-- The fields that a script reads of an ending job: the mark of its claim, and the fields that decide how it ends.
local ENDING = { CLAIM[1], CLAIM[2], 'opts', 'parentKey', 'deid', 'atm', 'defa', 'bw:why', 'bw:waited', 'bw:placed' }
-- Where `bw:placed` is among them: the token of the claim that has put a large result in its place.
local PLACED = 10

-- Ends an active job. `m` are its fields ENDING, `state` is completed or failed, `value` its result or the reason. With
-- `is_kept` the caller keeps the result for equal jobs. With `is_placed` the result is in its place already, and so is all
-- else that holds it.
local function finish(id, m, token, state, value, now, default_count, default_ms, is_kept, is_placed)
  local key, done = P .. id, state == 'completed'
  local opts = options(m[3])
  -- Neighbours whose keys are not what they should be must not keep a job from ending.
  local told = true
  if m[4] or m[5] then
    local problem, freed, trouble
    told, problem = pcall(tell_parent, id, opts, m[4], done, value, now, is_placed)
    freed, trouble = pcall(free_deduplication, id, m[5], now)
    if not (told and freed) then
      complain(key .. ' ended, its parent or successor was not told', not told and problem or trouble)
    end
  end
  local attempts = count(m[6], 0) + 1
  if done and not is_kept and not is_placed then cache(opts.idempotencyKey, id, value, now) end

  local rule = opts.removeOnFail
  if done then rule = opts.removeOnComplete end
  local keep_count, keep_ms = retention(rule, default_count, default_ms)
  local value_field = done and 'returnvalue' or 'failedReason'
  if keep_count == 0 then
    let_go(id, token)
    forget(id, now, done and told)
    file(id, state, now, false)
  else
    -- Clears the record of the job's waits: after a retry by hand the job must not inherit it.
    if m[7] or m[8] or m[9] then call('HDEL', key, 'defa', 'bw:why', 'bw:gate', 'bw:waited') end
    -- A result that an earlier claim has put there, and never finished with, is not this one's.
    if m[PLACED] then call('HDEL', key, 'bw:placed', unpack(is_placed and {} or { 'returnvalue' })) end
    local fields = done and { 'progress', '100' } or {}
    if not is_placed then
      fields[#fields + 1], fields[#fields + 2] = value_field, value
    end
    let_go(id, token, 'finishedOn', text(now), 'atm', text(attempts), unpack(fields))
    file(id, state, now, true, keep_count, keep_ms)
  end
  doom(key .. ':lock')
  -- Nothing of it has to be paid for again.
  if done then doom('ledger:' .. key) end

  if not is_placed then emit(P, state, 'jobId', id, value_field, value, 'prev', 'active') end
  if not done and attempts >= count(opts.attempts, 0) then
    emit(P, 'retries-exhausted', 'jobId', id, 'attemptsMade', text(attempts))
  end
end
