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

-- One render more or less in the count of its pool and priority; `lane` is "<pool> <priority>".
local function count_waiting(lane, renders, ms)
  call('HINCRBY', K.waiting_ms, lane, string.format('%d', ms))
  if call('HINCRBY', K.waiting, lane, renders) <= 0 then
    call('HDEL', K.waiting, lane)
    call('HDEL', K.waiting_ms, lane)
  end
end

-- While a render is queued it stands on the account of the owner whose flow pays for it: one more
-- render, and its milliseconds, which the render keeps as `owed`; and in the count of its `lane`.
-- Both ways may be taken twice.
local function owe(render)
  local key = K.render .. render
  local flow, charge, owed, pool, cost = unpack(call('HMGET', key, 'flow', 'gpu_ms', 'owed', 'pool', 'cost'))
  if flow and charge and pool and not owed then
    local owner, priority = flow:match('^(.*):(.*)$')
    local lane, ms = pool .. ' ' .. priority, math.floor((cost or 0) * 1000 + 0.5)
    call('HSET', key, 'owed', charge, 'lane', lane, 'lane_ms', ms)
    call('HINCRBY', K.owed, owner, 1)
    call('HINCRBY', K.owed_ms, owner, charge)
    count_waiting(lane, 1, ms)
  end
end

local function settle(render)
  local flow, owed, lane, ms = unpack(call('HMGET', K.render .. render, 'flow', 'owed', 'lane', 'lane_ms'))
  if lane then -- none: an older version of the farm queued it
    call('HDEL', K.render .. render, 'lane', 'lane_ms')
    count_waiting(lane, -1, -ms)
  end
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
