-- Renders whose lease ran out are given back, as lost. ARGV: how many at most.
-- A reaper that was away for long may have been so with the whole store, and then nobody could
-- renew: what ran out meanwhile gets RESPITE_S, or an outage would count as the death of every worker.
-- A clock of Redis that was set back is made up for, and then caught up with, SLEW_S in each turn.
-- Answers {render, state, ...}.
local AWAY_S, RESPITE_S, SLEW_S = 3, 2, 0.1
local moved = {}
local ahead = tonumber(call('GET', K.ahead) or 0)
local time = wall() + ahead
local last = tonumber(call('GET', K.reaped) or time)
local gain = time < last and last - time or -math.min(ahead, SLEW_S, (time - last) / 2)
if gain ~= 0 then
  ahead, time = ahead + gain, time + gain
  redis.pcall('SET', K.ahead, precise(ahead))
end
redis.pcall('SET', K.reaped, precise(time)) -- a full server takes no write, and has its own errors
if time - last > AWAY_S then
  for _, render in ipairs(call('ZRANGEBYSCORE', K.leases, '-inf', precise(time))) do
    call('ZADD', K.leases, precise(time + RESPITE_S), render)
  end
end
local due = call('ZRANGEBYSCORE', K.leases, '-inf', precise(time), 'LIMIT', 0, ARGV[1])
for _, render in ipairs(due) do
  if leased(call('HGET', K.render .. render, 'state')) then
    moved[#moved + 1] = render
    moved[#moved + 1] = give_back(render, true)
  else
    call('ZREM', K.leases, render)
  end
end
return moved
