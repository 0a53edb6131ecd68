-- Webhooks that wait to be sent.

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
