-- The whole order in one step: replay, cache, single-flight, pending, tickets, record.
-- ARGV: JSON {job, owner, priority, weight, version, record, deadline_s, bypass, max_queue, previews,
--             hook, trace, limits: {per_min, queued, queued_ms}, idempotency: {key, body},
--             attendance: {client, gone_s, body, repeats}, stored_only,
--             images: [{render, fingerprint, pool, spec, cost}]}
-- Answers {'ok' | 'replayed', snapshot, hits, attached, made, left, reset seconds}, {'conflict'},
-- {'not_stored'}, {'full', wait}, {'limited', wait, left, reset} or
-- {'quota', wait, which, needed, left, reset}: wait is in seconds, -1 where nobody knows it; `left` is
-- -1 where there is no limit.

local order = cjson.decode(ARGV[1])
local given = order.idempotency
local limits = order.limits

-- The allowance of orders, as a bucket that fills evenly (GCRA): `whole_at` is when it is full again.
-- Answers what is left of it and the seconds until it is whole; -1: there is no limit.
local function allowance(whole_at)
  if limits.per_min == 0 then
    return -1, '0'
  end
  local missing_s = math.max(whole_at - now(), 0)
  local left = math.floor((WINDOW_S - missing_s) * limits.per_min / WINDOW_S + 1e-9)
  return math.max(left, 0), precise(missing_s)
end

local function whole_at()
  return math.max(tonumber(call('GET', K.submits .. order.owner) or 0), now())
end

-- Seconds until so many renders have left that queue.
local function drained_in(name, renders)
  local rate = pace(name)
  return rate > 0 and precise(renders / rate) or '-1'
end

local idem = given and (K.idem .. order.owner .. ':' .. given.key)

if idem then
  local job, body = (call('GET', idem) or ''):match('^(%S+) (%S+)$')
  if job and job ~= order.job and call('EXISTS', K.job .. job) == 1 then
    if body ~= given.body then
      return { 'conflict' }
    end
    if order.attendance then
      attend(job, order.attendance.client, order.attendance.gone_s)
    else
      call('ZREM', K.attended, job) -- whoever asks now will look again by himself
    end
    return { 'replayed', snapshot(job), 0, 0, 0, allowance(whole_at()) }
  end
end
if call('EXISTS', K.job .. order.job) == 1 then -- this very call, repeated
  return { 'ok', snapshot(order.job), 0, 0, 0, allowance(whole_at()) }
end
if order.attendance and order.attendance.repeats then
  local job = same_order(order.owner, order.attendance.body)
  if job then
    attend(job, order.attendance.client, order.attendance.gone_s)
    return { 'replayed', snapshot(job), 0, 0, 0, allowance(whole_at()) }
  end
end

local each_s = limits.per_min > 0 and WINDOW_S / limits.per_min or 0
local then_whole_at = whole_at() + each_s
if limits.per_min > 0 and then_whole_at > now() + WINDOW_S then
  return { 'limited', precise(then_whole_at - now() - WINDOW_S), allowance(whole_at()) }
end

local tally = { hit = 0, attached = 0, new = 0 }
local fresh = {}
for _, image in ipairs(order.images) do
  local render, how
  if not order.bypass then
    render, how = answering(image.fingerprint)
  end
  image.how = how or 'new'
  image.answer = render or image.render
  tally[image.how] = tally[image.how] + 1
  if image.how == 'new' then
    fresh[image.pool] = (fresh[image.pool] or 0) + 1
  end
end
if order.stored_only and tally.hit < #order.images then
  return { 'not_stored' }
end
for pool, more in pairs(fresh) do
  local over = call('ZCARD', K.pending .. pool) + more - order.max_queue
  if over > 0 then
    return { 'full', drained_in('pool:' .. pool, over) }
  end
end

-- What the owner has queued and this order adds to it. Of the device time only the sum counts.
local function gpu_ms(image)
  return math.floor(image.cost * tonumber(call('GET', K.rate .. image.pool) or 1) * 1000 + 0.5)
end
local queued = tonumber(call('HGET', K.owed, order.owner) or 0)
local queued_ms = tonumber(call('HGET', K.owed_ms, order.owner) or 0)
local more, more_ms = 0, 0
for _, image in ipairs(order.images) do
  if image.how == 'new' then
    more = more + 1
    more_ms = more_ms + gpu_ms(image)
  end
end
local who = 'owner:' .. order.owner
local over = queued + more - limits.queued
if more > 0 and limits.queued > 0 and over > 0 then
  return { 'quota', drained_in(who, over), 'renders', tostring(more), allowance(whole_at()) }
end
local over_ms = queued_ms + more_ms - limits.queued_ms
if more > 0 and limits.queued_ms > 0 and over_ms > 0 then
  local each_ms = math.max(queued_ms, 1) / math.max(queued, 1)
  return { 'quota', drained_in(who, math.ceil(over_ms / each_ms)), 'gpu_s', precise(more_ms / 1000),
    allowance(whole_at()) }
end

local time = now()
if limits.per_min > 0 then
  call('SET', K.submits .. order.owner, precise(then_whole_at), 'EX', WINDOW_S + 1)
end
local flow = order.owner .. ':' .. order.priority
local key = K.job .. order.job
local renders = {}
local open = 0
for index, image in ipairs(order.images) do
  renders[index] = image.answer
  if image.how ~= 'hit' then
    open = open + 1
  end
end
call('HSET', key, 'record', order.record, 'owner', order.owner, 'created_at', precise(time),
  'open', open, 'renders', table.concat(renders, ' '))
index_job(order.job, order.owner, time)
emit(order.job, 'job.queued')
if order.previews > 0 then
  call('HSET', key, 'previews', order.previews)
end
if order.deadline_s then
  call('HSET', key, 'deadline_at', precise(time + order.deadline_s))
  call('ZADD', K.deadlines, precise(time + order.deadline_s), order.job)
end
if order.hook then -- "<the receiver's origin> <event> <event> ..."
  call('HSET', key, 'hook', order.hook)
end
if order.trace then
  call('HSET', key, 'trace', order.trace)
end
if idem then
  call('SET', idem, order.job .. ' ' .. given.body, 'EX', IDEMPOTENCY_S)
  call('HSET', key, 'idem', idem)
end
if order.attendance and open > 0 then
  local client = order.attendance
  call('ZADD', K.attended, precise(time + client.gone_s), order.job)
  attend(order.job, client.client, client.gone_s)
end

for index, image in ipairs(order.images) do
  local render = K.render .. image.answer
  local rate = tonumber(call('GET', K.rate .. image.pool) or 1)
  local charge = image.cost * rate / order.weight
  if image.how ~= 'new' then
    refer(image.answer, order.job, time)
  end
  if image.how == 'hit' then
    call('PERSIST', render) -- until this job is final too
    call('PERSIST', K.current .. image.fingerprint)
    call('HSET', key, 'cached:' .. (index - 1), 1)
    count('hit')
    emit(order.job, 'image.succeeded', index - 1, call('HGET', render, 'attempt'))
  else
    if image.how == 'new' then
      call('SADD', K.pools, image.pool)
      call('HSET', render, 'fingerprint', image.fingerprint, 'pool', image.pool, 'spec', image.spec,
        'state', 'queued', 'attempt', 0, 'losses', 0, 'step', 0, 'wanted', 0,
        'queued_at', precise(time), 'cost', precise(image.cost), 'version', order.version,
        'job', order.job)
      if image.against then
        call('HSET', render, 'against', image.against)
      end
      enqueue(image.pool, image.answer, flow, charge, gpu_ms(image))
      if order.bypass then
        call('HSET', render, 'fresh', 1)
      else
        call('SET', K.current .. image.fingerprint, image.answer)
      end
    elseif call('HGET', render, 'state') ~= 'queued' then
      image_running(order.job, index - 1, call('HGET', render, 'attempt'))
    else
      -- A second buyer may be nearer to the head of the queue than the first: then he pays.
      if start_tag(image.pool, flow) < tonumber(call('HGET', render, 'tag')) then
        local payer, paid = unpack(call('HMGET', render, 'flow', 'charge'))
        dequeue(image.pool, image.answer, payer, tonumber(paid))
        enqueue(image.pool, image.answer, flow, charge, gpu_ms(image))
      end
    end
    if image.how == 'attached' then
      count('attached')
    end
    if order.previews > 0 then
      local most = math.max(tonumber(call('HGET', render, 'previews') or 0), order.previews)
      call('HSET', render, 'previews', most)
    end
    call('HINCRBY', render, 'wanted', 1)
    call('SADD', K.waiters .. image.answer, order.job .. ':' .. (index - 1))
  end
end
for pool in pairs(fresh) do
  top_up(pool)
end
if order.attendance and open > 0 then
  remember_order(order.owner, order.attendance.body, order.job) -- last: it looks at the renders
end
if open == 0 then
  finish_job(order.job)
end
return { 'ok', snapshot(order.job), tally.hit, tally.attached, tally.new, allowance(whole_at()) }
