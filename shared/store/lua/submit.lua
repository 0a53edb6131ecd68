-- The whole order in one step: replay, cache, single-flight, pending, tickets, record.
-- ARGV: JSON {job, owner, priority, weight, version, record, deadline_s, bypass, max_queue, previews, hook,
--             idempotency: {key, body}, attendance: {client, gone_s, body, repeats}, stored_only, images: [{render, fingerprint, pool, spec, cost}]}
-- Answers {'ok' | 'replayed', snapshot, hits, attached, made} or {'full' | 'conflict' | 'not_stored'}.

local order = cjson.decode(ARGV[1])
local given = order.idempotency
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
    return { 'replayed', snapshot(job), 0, 0, 0 }
  end
end
if call('EXISTS', K.job .. order.job) == 1 then -- this very call, repeated
  return { 'ok', snapshot(order.job), 0, 0, 0 }
end
if order.attendance and order.attendance.repeats then
  local job = same_order(order.owner, order.attendance.body)
  if job then
    attend(job, order.attendance.client, order.attendance.gone_s)
    return { 'replayed', snapshot(job), 0, 0, 0 }
  end
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
  if call('ZCARD', K.pending .. pool) + more > order.max_queue then
    return { 'full' }
  end
end

local time = now()
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
    call('ZADD', K.users .. image.answer, precise(time), order.job)
    call('PERSIST', K.users .. image.answer)
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
      enqueue(image.pool, image.answer, flow, charge)
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
        enqueue(image.pool, image.answer, flow, charge)
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
return { 'ok', snapshot(order.job), tally.hit, tally.attached, tally.new }
