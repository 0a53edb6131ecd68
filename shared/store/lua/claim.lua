-- Choose, claim and lease the render that goes next. ARGV: pool, token, slot, worker, lease seconds.
-- Answers {render, render hash, waiters, now, {{job, trace context}, ...}}, or false when nothing waits
-- (or this token's claim was lost meanwhile). The same token gets the same render again.
local pool, token, slot, worker, lease_s = unpack(ARGV)
local time = now()

local function claimed(render)
  local waiters, traces, seen = call('SMEMBERS', K.waiters .. render), {}, {}
  for _, waiter in ipairs(waiters) do
    local job = waiter:match('^(.*):')
    local trace = not seen[job] and call('HGET', K.job .. job, 'trace')
    seen[job] = true
    if trace then
      traces[#traces + 1] = { job, trace }
    end
  end
  return { render, call('HGETALL', K.render .. render), waiters, precise(time), traces }
end

local earlier = call('GET', K.token .. token)
if earlier then
  local owner, state = unpack(call('HMGET', K.render .. earlier, 'token', 'state'))
  return owner == token and leased(state) and claimed(earlier)
end

expire_due(100)
promote(pool)

-- An entry without a queued render behind it comes only from a damaged log: drop it, look further.
local function next_render()
  while true do
    local head = call('ZRANGE', K.pending .. pool, 0, 0, 'WITHSCORES')
    if #head == 0 then
      return nil
    end
    call('ZREM', K.pending .. pool, head[1])
    if call('HGET', K.render .. head[1], 'state') == 'queued' then
      return head[1], tonumber(head[2])
    end
  end
end

local render, tag = next_render()
if not render then
  count('idle')
  return false
end
local key = K.render .. render
if tag > tonumber(call('GET', K.vtime .. pool) or 0) then
  call('SET', K.vtime .. pool, precise(tag))
end
settle(render)
quicken('pool:' .. pool)
quicken('owner:' .. ((call('HGET', key, 'flow') or ''):match('^(.*):') or ''))
local attempt = call('HINCRBY', key, 'attempt', 1)
call('HSET', key, 'state', 'running', 'token', token, 'slot', slot, 'worker', worker, 'step', 0,
  'started_at', precise(time))
call('ZADD', K.leases, precise(time + lease_s), render)
call('SADD', K.slot .. slot, render)
call('SET', K.token .. token, render, 'EX', 3600)
count('claimed')
top_up(pool)
for _, waiter in ipairs(call('SMEMBERS', K.waiters .. render)) do
  local job, index = waiter:match('^(.*):(%d+)$')
  image_running(job, index, attempt)
end
return claimed(render)
