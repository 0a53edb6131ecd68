-- The ends of renders and jobs, and the ways back into the queue.

-- Of a job's images the highest decides how it ended, as `job_status` of shared/jobs.py does.
local WEIGHT = { succeeded = 1, expired = 2, failed = 3, canceled = 4 }

-- The job is final: from here on it is remembered for RETENTION_S, and its renders a little longer.
local function finish_job(job)
  call('ZREM', K.deadlines, job)
  local index, outcome = 0, 'succeeded'
  for render in (call('HGET', K.job .. job, 'renders') or ''):gmatch('%S+') do
    local state, fingerprint = unpack(call('HMGET', K.render .. render, 'state', 'fingerprint'))
    if state and not is_open(state) then -- another job waits for an open one, and outlives this
      call('EXPIRE', K.render .. render, RETENTION_S + 3600)
      call('EXPIRE', K.users .. render, RETENTION_S + 3600)
      if call('GET', K.current .. fingerprint) == render then
        call('EXPIRE', K.current .. fingerprint, RETENTION_S)
      end
    end
    local dropped = call('HGET', K.job .. job, 'drop:' .. index)
    local ended = dropped and dropped:match('^%S+') or state or 'failed'
    if WEIGHT[ended] > WEIGHT[outcome] then
      outcome = ended
    end
    index = index + 1
  end
  emit(job, 'job.' .. outcome)
  call('EXPIRE', K.job .. job, RETENTION_S)
  call('EXPIRE', K.events .. job, RETENTION_S)
  call('EXPIRE', K.deliveries .. job, RETENTION_S)
end

local function image_done(job, index, state, attempt)
  if call('EXISTS', K.job .. job) == 1 then
    emit(job, 'image.' .. state, index, attempt)
    if call('HINCRBY', K.job .. job, 'open', -1) == 0 then
      finish_job(job)
    end
  end
end

-- End a render: `fields` are its last ones. Every waiting job is advanced.
local function end_render(render, state, fields)
  local key = K.render .. render
  local fingerprint, slot, attempt = unpack(call('HMGET', key, 'fingerprint', 'slot', 'attempt'))
  call('HSET', key, 'state', state, 'finished_at', precise(now()), unpack(fields or {}))
  unlease(render, slot)
  settle(render)
  if state ~= 'succeeded' then
    forget(fingerprint, render)
  end
  count(state)
  for _, waiter in ipairs(call('SMEMBERS', K.waiters .. render)) do
    local job, index = waiter:match('^(.*):(%d+)$')
    image_done(job, index, state, attempt)
  end
  call('DEL', K.waiters .. render)
end

-- Device seconds went into a picture: of this pool, and today for the owner whose flow paid.
local SPENT_S = 172800
local function spend(render, pool, device_s)
  local owner = (call('HGET', K.render .. render, 'flow') or ''):match('^(.*):')
  local ms = string.format('%d', device_s * 1000 + 0.5)
  local today = K.spent .. math.floor(now() / 86400)
  call('HINCRBY', K.worked_ms, pool, ms)
  if owner then
    call('ZINCRBY', today, ms, owner)
    call('EXPIRE', today, SPENT_S)
  end
end

-- The lease ends and with it what its worker did; `token` stays, so that its last word can be
-- repeated.
local function put_down(render, slot)
  local key = K.render .. render
  unlease(render, slot)
  call('HSET', key, 'state', 'queued', 'step', 0)
  call('HDEL', key, 'slot', 'worker', 'started_at')
  owe(render)
end

-- Why the last worker of this slot died; the cause is one of a closed set.
local function bury(slot, cause)
  call('SET', K.death .. slot, precise(now()) .. ' ' .. cause, 'EX', DEATH_S)
end

-- Back to its old place in the queue. `lost`: its worker died, of `cause`, said in words in `detail`
-- (neither is known as a rule); the last allowed loss is the end.
-- Answers the state it is in afterwards.
local function give_back(render, lost, cause, detail)
  local key = K.render .. render
  local pool, slot, tag, wanted = unpack(call('HMGET', key, 'pool', 'slot', 'tag', 'wanted'))
  if lost then
    cause = cause or 'worker_lost'
    call('HSET', key, 'last_loss', cause)
    if slot then
      bury(slot, cause)
    end
  end
  if tonumber(wanted) == 0 then
    end_render(render, 'canceled')
    return 'canceled'
  end
  if lost then
    count('lost')
    local losses = call('HINCRBY', key, 'losses', 1)
    if losses >= MAX_LOSSES then
      local jobs = {}
      for _, waiter in ipairs(call('SMEMBERS', K.waiters .. render)) do
        jobs[#jobs + 1] = waiter:match('^(.*):')
      end
      table.sort(jobs)
      local message = 'the render took down its worker ' .. losses .. ' times'
      if detail and detail ~= '' then
        message = message .. ': ' .. detail
      end
      local code = cause == 'container_memory' and cause or 'worker_lost'
      local error = { code = code, message = message, retryable = false }
      end_render(render, 'failed', { 'error', cjson.encode(error), 'jobs', table.concat(jobs, ' ') })
      call('ZADD', K.poison, precise(now()), render)
      return 'failed'
    end
  end
  put_down(render, slot)
  call('HDEL', key, 'token')
  call('ZADD', K.pending .. pool, tag, render)
  top_up(pool)
  return 'queued'
end

-- A fault that may pass: the render waits, then takes its old place. The pause grows by 4 up to a
-- minute; its last half is spread by the serial, so that many do not come back at one moment.
-- Answers the retry's number and the seconds.
local function delay(render, error)
  local key = K.render .. render
  local pool, slot = unpack(call('HMGET', key, 'pool', 'slot'))
  local retry = call('HINCRBY', key, 'retries', 1)
  local spread = (call('INCR', K.serial) * 0.6180339887498949) % 1
  local pause_s = math.min(RETRY_PAUSE_S * 4 ^ (retry - 1), 60) * (1 + spread) / 2
  put_down(render, slot)
  call('HSET', key, 'error', error)
  call('ZADD', K.delayed .. pool, precise(now() + pause_s), render)
  count('retried')
  return retry, pause_s
end

-- Renders whose pause is over return to their old place in the queue.
local function promote(pool)
  local delayed = K.delayed .. pool
  local due = call('ZRANGEBYSCORE', delayed, '-inf', precise(now()), 'LIMIT', 0, 100)
  for _, render in ipairs(due) do
    call('ZREM', delayed, render)
    local state, tag = unpack(call('HMGET', K.render .. render, 'state', 'tag'))
    if state == 'queued' then
      call('ZADD', K.pending .. pool, tag, render)
    end
  end
end

-- One image leaves its job. A render that nobody else wants ends: at once if it is queued, at its
-- next step if it runs (then the image shows what is true: that it still runs).
local function drop_image(job, index, render, why)
  local key = K.render .. render
  local state, pool, flow, charge, wanted, attempt, step, started_at = unpack(
    call('HMGET', key, 'state', 'pool', 'flow', 'charge', 'wanted', 'attempt', 'step', 'started_at'))
  local member = job .. ':' .. index
  if call('SISMEMBER', K.waiters .. render, member) == 0 then
    return
  end
  local others = tonumber(wanted) > 1
  if leased(state) and not others then
    call('HSET', key, 'wanted', 0)
    return
  end
  call('HINCRBY', key, 'wanted', -1)
  call('SREM', K.waiters .. render, member)
  call('HSET', K.job .. job, 'drop:' .. index, why .. ' ' .. precise(now()),
    'left:' .. index, table.concat({ attempt, step, started_at or '' }, ' '))
  if not others then
    dequeue(pool, render, flow, tonumber(charge))
    end_render(render, 'canceled')
  end
  image_done(job, index, 'canceled', attempt) -- last: what the job remembers must be final by then
end

-- Drop what has not started of jobs whose deadline has passed; answers those that lost some.
local function expire_due(limit)
  local expired = {}
  for _, job in ipairs(call('ZRANGEBYSCORE', K.deadlines, '-inf', precise(now()), 'LIMIT', 0, limit)) do
    call('ZREM', K.deadlines, job)
    local index = 0
    for render in (call('HGET', K.job .. job, 'renders') or ''):gmatch('%S+') do
      local state, attempt = unpack(call('HMGET', K.render .. render, 'state', 'attempt'))
      if state == 'queued' and tonumber(attempt) == 0 then
        drop_image(job, index, render, 'expired')
        if expired[#expired] ~= job then
          expired[#expired + 1] = job
        end
      end
      index = index + 1
    end
  end
  return expired
end
