-- Deliveries that are due, leased to one courier. ARGV: token, how many at most, lease seconds.
-- Answers {job, name, owner, lane, line, body or false} for each; the same token gets the same ones.
local token, most, lease_s = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local time = now()
local taken = {}

local function shown(member)
  local job, name = member:match('^(%S+) (%S+)$')
  local owner, hook = unpack(call('HMGET', K.job .. job, 'owner', 'hook'))
  local line, body, holder =
    unpack(call('HMGET', K.deliveries .. job, name, name .. ':body', name .. ':token'))
  if owner and holder == token then
    taken[#taken + 1] = { job, name, owner, hook:match('^%S+'), line, body }
  end
end

local earlier = call('GET', K.token .. token)
if earlier then
  for member in earlier:gmatch('[^\n]+') do
    shown(member)
  end
  return taken
end

local function due(key)
  return call('ZRANGEBYSCORE', key, '-inf', precise(time), 'LIMIT', 0, 1)[1]
end

local function has_room(flights, limit)
  call('ZREMRANGEBYSCORE', flights, '-inf', precise(time))
  return call('ZCARD', flights) < limit
end

local members = {}
for _ = 1, 20 * most do -- a turn may only find that a lane is full, and put it back in its place
  time = time + 1e-6 -- so that those who had their turn stand in the order of their turns
  local owner = #members < most and due(K.outbox)
  if not owner then
    break
  end
  local lane = due(K.lanes .. owner)
  local road = owner .. ' ' .. (lane or '')
  local member = lane and due(K.lane .. road)
  if member and has_room(K.flight .. owner, OWNER_MOST) and has_room(K.flight .. road, LANE_MOST) then
    local job, name = member:match('^(%S+) (%S+)$')
    if call('EXISTS', K.job .. job) == 1 and call('HEXISTS', K.deliveries .. job, name) == 1 then
      local ends = precise(time + lease_s)
      call('HSET', K.deliveries .. job, name .. ':token', token)
      call('ZADD', K.lane .. road, ends, member)
      call('ZADD', K.flight .. owner, ends, member)
      call('ZADD', K.flight .. road, ends, member)
      members[#members + 1] = member
      shown(member)
    else -- its job was forgotten or deleted
      call('ZREM', K.lane .. road, member)
      call('ZREM', K.undelivered, member)
    end
  end
  queue_up(owner, lane, time)
end
if #members > 0 then
  call('SET', K.token .. token, table.concat(members, '\n'), 'EX', math.ceil(lease_s))
end
return taken
