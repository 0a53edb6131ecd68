-- Put before every script. K (key prefixes), TICKET, TICKETS_MAX, MAX_LOSSES, MAX_RETRIES,
-- RETRY_PAUSE_S, RETENTION_S, IDEMPOTENCY_S, DEATH_S, UNWELL_S, ATTACH_S, WINDOW_S and PACE_S are set
-- by the line above, as are LANE_MOST, OWNER_MOST and LOG_MOST; the schema is in shared/keys.py.
-- Scripts run alone, so what one does is one step. All times are Redis' own, and never go back.

local call = redis.call

local function precise(number)
  return string.format('%.17g', number)
end

local function wall()
  local time = call('TIME')
  return tonumber(time[1]) + tonumber(time[2]) / 1e6
end

-- Never before the reaper's last turn: when Redis' clock is set back time stands still until its next
-- turn, which notes by how much the farm is ahead from then on.
local function now()
  local ahead, reaped = unpack(call('MGET', K.ahead, K.reaped))
  return math.max(wall() + tonumber(ahead or 0), tonumber(reaped or 0))
end

local function count(outcome)
  call('HINCRBY', K.totals, outcome, 1)
end

-- Webhooks (shared/store/outbox.py): what waits takes its place in the lane of its owner and receiver.
local function send_off(owner, lane, member, due)
  call('ZADD', K.undelivered, due, member)
  call('ZADD', K.lane .. owner .. ' ' .. lane, due, member)
  call('ZADD', K.lanes .. owner, 'LT', due, lane) -- later only by its turn, see queue_up
  call('ZADD', K.outbox, 'LT', due, owner)
end

-- An event goes out, once, if the job's webhook wants it.
local function post(job, type, index)
  local owner, hook = unpack(call('HMGET', K.job .. job, 'owner', 'hook'))
  if not hook or not (hook .. ' '):find(' ' .. type .. ' ', 1, true) then
    return
  end
  local name = index and type .. ':' .. index or type
  local time = precise(now())
  if call('HSETNX', K.deliveries .. job, name, time .. ' waiting 0 ' .. time) == 1 then
    send_off(owner, hook:match('^%S+'), job .. ' ' .. name, time)
  end
end

-- When a lane, or an owner, has its next turn: with the first that is due `behind` it, but after those
-- who wait since it had its last; with too many under way, when the first of them ends.
local function next_turn(line, member, behind, flights, most, time)
  local head = call('ZRANGE', behind, 0, 0, 'WITHSCORES')[2]
  if not head then
    call('ZREM', line, member)
    return
  end
  local turn = math.max(tonumber(head), time)
  call('ZREMRANGEBYSCORE', flights, '-inf', precise(time))
  if call('ZCARD', flights) >= most then
    turn = math.max(turn, tonumber(call('ZRANGE', flights, 0, 0, 'WITHSCORES')[2]))
  end
  call('ZADD', line, precise(turn), member)
end

local function queue_up(owner, lane, time)
  if lane then
    local road = owner .. ' ' .. lane
    next_turn(K.lanes .. owner, lane, K.lane .. road, K.flight .. road, LANE_MOST, time)
  end
  next_turn(K.outbox, owner, K.lanes .. owner, K.flight .. owner, OWNER_MOST, time)
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

-- To whoever listens to a job now. A server that lets us tell nobody must not stop the work.
local function tell(job, message)
  redis.pcall('PUBLISH', K.live .. job, message)
end

-- An event of a job: remembered as long as the job, and told to whoever listens now. Its number is
-- its place in the list. `index` and `attempt` are the image's, if it is about one.
local function emit(job, type, index, attempt)
  local line = string.format('%.3f %s', now(), type)
  if index then
    line = line .. ' ' .. index .. ' ' .. (attempt or 0)
  end
  local number = call('RPUSH', K.events .. job, line)
  tell(job, number .. ' ' .. line)
  post(job, type, index)
end

-- Whether somebody listens to a job.
local function heard(job)
  local seen = redis.pcall('PUBSUB', 'NUMSUB', K.live .. job)
  return not seen.err and seen[2] > 0
end

-- How many steps are run: from an input picture only the last part of the schedule, but one at least.
local function steps_to_run(spec)
  if type(spec.init_image_sha256) ~= 'string' or type(spec.strength) ~= 'number' then
    return spec.steps
  end
  return spec.steps - math.min(math.floor(spec.steps - spec.steps * spec.strength), spec.steps - 1)
end

-- Steps done are told, not remembered.
local function tell_step(render, step)
  local steps
  for _, waiter in ipairs(call('SMEMBERS', K.waiters .. render)) do
    local job, index = waiter:match('^(.*):(%d+)$')
    if heard(job) then
      steps = steps or steps_to_run(cjson.decode(call('HGET', K.render .. render, 'spec')))
      local said = '{"type":"image.progress","index":%d,"step":%d,"steps":%d}'
      tell(job, said:format(index, step, steps))
    end
  end
end

local function image_running(job, index, attempt)
  local open, started = unpack(call('HMGET', K.job .. job, 'open', 'started'))
  if not open then -- a job that is gone has no events
    return
  end
  if not started then
    call('HSET', K.job .. job, 'started', 1)
    emit(job, 'job.running')
  end
  emit(job, 'image.running', index, attempt)
end

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
      call('EXPIRE', K.current .. fingerprint, RETENTION_S)
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
  local state, pool, flow, charge, wanted, attempt =
    unpack(call('HMGET', key, 'state', 'pool', 'flow', 'charge', 'wanted', 'attempt'))
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
  image_done(job, index, 'canceled', attempt) -- last: what the job remembers must be final by then
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

-- The index of jobs by when they came: everybody's, and each owner's.
local function index_job(job, owner, time)
  call('ZADD', K.jobs, precise(time), job .. ' ' .. owner)
  call('ZADD', K.owned .. owner, precise(time), job)
end

local function unindex_job(job, owner)
  call('ZREM', K.jobs, job .. ' ' .. owner)
  call('ZREM', K.owned .. owner, job)
end

-- Whether a job other than this one refers to a render. The one that it was made for stands in its
-- hash, later ones in a set: the newest outlives the others as a rule, and those that are no longer
-- remembered leave the set on the way, so this looks at little.
local function others_use(render, job)
  local first, state = unpack(call('HMGET', K.render .. render, 'job', 'state'))
  if not first or is_open(state) then -- an older version made it, and did not say for whom
    return true
  end
  if first ~= job and call('EXISTS', K.job .. first) == 1 then
    return true
  end
  local users = K.users .. render
  while true do
    local newest = call('ZREVRANGE', users, 0, 0)[1]
    if not newest then
      return false
    end
    if newest ~= job and call('EXISTS', K.job .. newest) == 1 then
      return true
    end
    call('ZREM', users, newest)
  end
end

-- Which render answers an image: one that succeeded, or one that somebody still waits for.
local function answering(fingerprint)
  local render = call('GET', K.current .. fingerprint)
  if not render then
    return nil
  end
  local state, wanted = unpack(call('HMGET', K.render .. render, 'state', 'wanted'))
  if state == 'succeeded' then
    return render, 'hit'
  end
  if state and is_open(state) and tonumber(wanted) > 0 then
    return render, 'attached'
  end
  return nil
end

-- A client waits for the job on an open connection. A job that no such client ordered stays unheld:
-- it is nobody's to abandon.
local function attend(job, client, gone_s)
  local key = K.job .. job
  if tonumber(call('HGET', key, 'open') or 0) > 0 then
    local held_until = precise(now() + gone_s)
    call('HSET', key, 'client:' .. client, held_until)
    call('ZADD', K.attended, 'XX', 'GT', held_until, job)
  end
end

-- Whether every client that waited for the job has left.
local function is_alone(job)
  local fields, time = call('HGETALL', K.job .. job), now()
  for i = 1, #fields, 2 do
    if fields[i]:sub(1, 7) == 'client:' and tonumber(fields[i + 1]) > time then
      return false
    end
  end
  return true
end

-- Whether a repeated request may be answered with the job: unfinished, or succeeded lately.
local function is_attachable(job)
  local open, renders, last, asked =
    unpack(call('HMGET', K.job .. job, 'open', 'renders', 'created_at', 'cancel_requested_at'))
  if not renders or asked then
    return false
  end
  local index = 0
  for render in renders:gmatch('%S+') do
    local state, finished = unpack(call('HMGET', K.render .. render, 'state', 'finished_at'))
    if call('HEXISTS', K.job .. job, 'drop:' .. index) == 1 or not (state == 'succeeded' or is_open(state or '')) then
      return false
    end
    last = math.max(tonumber(last), tonumber(finished or 0))
    index = index + 1
  end
  return tonumber(open) > 0 or last >= now() - ATTACH_S
end

-- The job that a repeated request means: one whose client has left, else the oldest. Looks at 64.
local function same_order(owner, body)
  local key, oldest = K.attach .. owner .. ':' .. body, nil
  for _, job in ipairs(call('ZRANGE', key, 0, 63)) do
    if not is_attachable(job) then
      call('ZREM', key, job)
    elseif is_alone(job) then
      return job
    else
      oldest = oldest or job
    end
  end
  return oldest
end

-- Each order remembered looks at the two oldest, so the list holds little more than what is open.
local function remember_order(owner, body, job)
  local key = K.attach .. owner .. ':' .. body
  call('ZADD', key, precise(now()), job)
  call('EXPIRE', key, IDEMPOTENCY_S)
  for _, old in ipairs(call('ZRANGE', key, 0, 1)) do
    if not is_attachable(old) then
      call('ZREM', key, old)
    end
  end
end

-- The job's queued images are canceled; what runs goes on. If any was, its idempotency key is free
-- again. Answers how many.
local function abandon(job)
  local canceled, index = 0, 0
  for render in (call('HGET', K.job .. job, 'renders') or ''):gmatch('%S+') do
    local waits = call('SISMEMBER', K.waiters .. render, job .. ':' .. index) == 1
    if waits and call('HGET', K.render .. render, 'state') == 'queued' then
      drop_image(job, index, render, 'canceled')
      canceled = canceled + 1
    end
    index = index + 1
  end
  call('ZREM', K.attended, job)
  local idem = call('HGET', K.job .. job, 'idem')
  if canceled > 0 and idem and (call('GET', idem) or ''):match('^%S+') == job then
    call('DEL', idem)
  end
  return canceled
end

-- The id of a job's newest event, as shared/events.py spells it; '' where it has none.
local function newest(job)
  local number = call('LLEN', K.events .. job)
  local at = number > 0 and call('LINDEX', K.events .. job, -1):match('^%S+')
  return at and (number .. '-' .. at:gsub('%.', '')) or ''
end

-- Predicted device seconds of the first `renders` of a queue: exact for SAMPLE of them, else from one
-- of each of SAMPLE equal stretches, at a place that differs, since a queue of few flows is periodic.
local SAMPLE = 32
local function work_ahead(pool, renders)
  local pending, ahead, sum = K.pending .. pool, {}, 0
  if renders <= SAMPLE then
    ahead = renders > 0 and call('ZRANGE', pending, 0, renders - 1) or ahead
  else
    for i = 0, SAMPLE - 1 do
      local at = math.floor((i + (i + 1) * 0.6180339887498949 % 1) * renders / SAMPLE)
      ahead[#ahead + 1] = call('ZRANGE', pending, at, at)[1]
    end
  end
  for _, render in ipairs(ahead) do
    sum = sum + tonumber(call('HGET', K.render .. render, 'cost') or 0)
  end
  return #ahead > 0 and sum * renders / #ahead or 0
end

-- A job as one moment sees it: {now, job hash, {render, render hash, rank or -1, measured rate or '',
-- work ahead or ''}, ...}; false: none. Only its last queued image is told what is ahead.
local function snapshot(job)
  local record = call('HGETALL', K.job .. job)
  if #record == 0 then
    return false
  end
  record[#record + 1] = 'newest'
  record[#record + 1] = newest(job)
  local seen = { precise(now()), record }
  local last, last_rank, last_pool
  for render in call('HGET', K.job .. job, 'renders'):gmatch('%S+') do
    local fields = call('HGETALL', K.render .. render)
    local pool, state = unpack(call('HMGET', K.render .. render, 'pool', 'state'))
    local rank = pool and call('ZRANK', K.pending .. pool, render) or false
    local rate = pool and is_open(state) and call('GET', K.rate .. pool) or ''
    local entry = { render, fields, rank or -1, rate, '' }
    if rank and rank > (last_rank or -1) then
      last, last_rank, last_pool = entry, rank, pool
    end
    seen[#seen + 1] = entry
  end
  if last then
    last[5] = precise(work_ahead(last_pool, last_rank))
  end
  return seen
end
