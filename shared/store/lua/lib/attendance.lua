-- Clients that hold a job while they wait for it.

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
