-- Tickets, the accounts of owners, and start-time fair queueing.

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
