-- Put before every script. K (key prefixes), TICKET, TICKETS_MAX, MAX_LOSSES, MAX_RETRIES,
-- RETRY_PAUSE_S, RETENTION_S, IDEMPOTENCY_S, DEATH_S, UNWELL_S, WINDOW_S and PACE_S are set by the
-- line above; the schema is in shared/keys.py.
-- Scripts run alone, so what one does is one step. All times are Redis' own.

local call = redis.call

local function precise(number)
  return string.format('%.17g', number)
end

local function now()
  local time = call('TIME')
  return tonumber(time[1]) + tonumber(time[2]) / 1e6
end

local function count(outcome)
  call('HINCRBY', K.totals, outcome, 1)
end

-- A ticket is the message that Celery's own producer made, with fresh ids.
local function ticket(pool)
  local id = string.format('00000000-0000-4000-8000-%012x', call('INCR', K.serial))
  return (TICKET:gsub('@ID@', id):gsub('@POOL@', (pool:gsub('%%', '%%%%'))))
end

-- Enough tickets that every free worker finds one; each claim tops up for the next.
local function top_up(pool)
  local queue = K.queue .. pool
  local want = math.min(call('ZCARD', K.pending .. pool), TICKETS_MAX) - call('LLEN', queue)
  for _ = 1, want do
    call('LPUSH', queue, ticket(pool))
  end
  return math.max(want, 0)
end

-- While a render is queued it stands on the account of the owner whose flow pays for it: one more
-- render, and its milliseconds, which the render keeps as `owed`. Both ways may be taken twice.
local function owe(render)
  local flow, charge, owed = unpack(call('HMGET', K.render .. render, 'flow', 'gpu_ms', 'owed'))
  if flow and charge and not owed then
    local owner = flow:match('^(.*):')
    call('HSET', K.render .. render, 'owed', charge)
    call('HINCRBY', K.owed, owner, 1)
    call('HINCRBY', K.owed_ms, owner, charge)
  end
end

local function settle(render)
  local flow, owed = unpack(call('HMGET', K.render .. render, 'flow', 'owed'))
  if owed then
    local owner = flow:match('^(.*):')
    call('HDEL', K.render .. render, 'owed')
    call('HINCRBY', K.owed_ms, owner, string.format('%d', -owed)) -- never '-0'
    if call('HINCRBY', K.owed, owner, -1) <= 0 then
      call('HDEL', K.owed, owner)
      call('HDEL', K.owed_ms, owner)
    end
  end
end

-- How many renders a second leave a queue: each claim adds to a sum that fades with PACE_S.
local function pace(name)
  local rate, at = (call('GET', K.pace .. name) or '0 0'):match('^(%S+) (%S+)$')
  return tonumber(rate) * math.exp((tonumber(at) - now()) / PACE_S)
end

local function quicken(name)
  call('SET', K.pace .. name, precise(pace(name) + 1 / PACE_S) .. ' ' .. precise(now()), 'EX', 10 * PACE_S)
end

-- Start-time fair queueing: a flow's next render starts where its last one ended, but never in the
-- past of the queue.
local function start_tag(pool, flow)
  local vtime = tonumber(call('GET', K.vtime .. pool) or 0)
  local finish = tonumber(call('HGET', K.flows .. pool, flow) or 0)
  return math.max(vtime, finish)
end

-- `charge` is what the flow pays: device seconds by its weight.
local function enqueue(pool, render, flow, charge, gpu_ms)
  local tag = start_tag(pool, flow)
  call('HSET', K.flows .. pool, flow, precise(tag + charge))
  call('HSET', K.render .. render, 'tag', precise(tag), 'flow', flow, 'charge', precise(charge),
    'gpu_ms', gpu_ms)
  call('ZADD', K.pending .. pool, precise(tag), render)
  owe(render)
end

-- What a flow was charged for work that nobody did is given back to it.
local function dequeue(pool, render, flow, charge)
  settle(render)
  call('ZREM', K.pending .. pool, render)
  call('ZREM', K.delayed .. pool, render)
  local finish = tonumber(call('HGET', K.flows .. pool, flow) or 0)
  call('HSET', K.flows .. pool, flow, precise(math.max(finish - charge, 0)))
end

local function forget(fingerprint, render)
  if call('GET', K.current .. fingerprint) == render then
    call('DEL', K.current .. fingerprint)
  end
end

local function unlease(render, slot)
  call('ZREM', K.leases, render)
  if slot then
    call('SREM', K.slot .. slot, render)
  end
end

local function leased(state)
  return state == 'running' or state == 'storing'
end

local function is_open(state)
  return state == 'queued' or leased(state)
end

-- The job is final: from here on it is remembered for RETENTION_S, and its renders a little longer.
local function finish_job(job)
  call('ZREM', K.deadlines, job)
  call('EXPIRE', K.job .. job, RETENTION_S)
  for render in (call('HGET', K.job .. job, 'renders') or ''):gmatch('%S+') do
    local state, fingerprint = unpack(call('HMGET', K.render .. render, 'state', 'fingerprint'))
    if state and not is_open(state) then -- another job waits for an open one, and outlives this
      call('EXPIRE', K.render .. render, RETENTION_S + 3600)
      call('EXPIRE', K.current .. fingerprint, RETENTION_S)
    end
  end
end

local function image_done(job)
  if call('EXISTS', K.job .. job) == 1 and call('HINCRBY', K.job .. job, 'open', -1) == 0 then
    finish_job(job)
  end
end

-- End a render: `fields` are its last ones. Every waiting job is advanced.
local function end_render(render, state, fields)
  local key = K.render .. render
  local fingerprint, slot = unpack(call('HMGET', key, 'fingerprint', 'slot'))
  call('HSET', key, 'state', state, 'finished_at', precise(now()), unpack(fields or {}))
  unlease(render, slot)
  settle(render)
  if state ~= 'succeeded' then
    forget(fingerprint, render)
  end
  count(state)
  for _, waiter in ipairs(call('SMEMBERS', K.waiters .. render)) do
    image_done(waiter:match('^(.*):'))
  end
  call('DEL', K.waiters .. render)
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
  local state, pool, flow, charge, wanted =
    unpack(call('HMGET', key, 'state', 'pool', 'flow', 'charge', 'wanted'))
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
  call('HSET', K.job .. job, 'drop:' .. index, why .. ' ' .. precise(now()))
  if not others then
    dequeue(pool, render, flow, tonumber(charge))
    end_render(render, 'canceled')
  end
  image_done(job) -- last: what the job remembers must be final by then
end

-- Drop what has not started of jobs whose deadline has passed; answers these jobs.
local function expire_due(limit)
  local jobs = call('ZRANGEBYSCORE', K.deadlines, '-inf', precise(now()), 'LIMIT', 0, limit)
  for _, job in ipairs(jobs) do
    call('ZREM', K.deadlines, job)
    local index = 0
    for render in (call('HGET', K.job .. job, 'renders') or ''):gmatch('%S+') do
      local state, attempt = unpack(call('HMGET', K.render .. render, 'state', 'attempt'))
      if state == 'queued' and tonumber(attempt) == 0 then
        drop_image(job, index, render, 'expired')
      end
      index = index + 1
    end
  end
  return jobs
end

-- A job as one moment sees it: {now, job hash, {render, render hash, rank or -1}, ...}; false: none.
local function snapshot(job)
  local record = call('HGETALL', K.job .. job)
  if #record == 0 then
    return false
  end
  local seen = { precise(now()), record }
  for render in call('HGET', K.job .. job, 'renders'):gmatch('%S+') do
    local fields = call('HGETALL', K.render .. render)
    local pool = call('HGET', K.render .. render, 'pool')
    local rank = pool and call('ZRANK', K.pending .. pool, render) or false
    seen[#seen + 1] = { render, fields, rank or -1 }
  end
  return seen
end
