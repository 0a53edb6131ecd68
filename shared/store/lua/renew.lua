-- Extend leases, report progress. ARGV: lease seconds, then token, render, step for each.
-- Answers 'held', 'cancel' or 'lost' for each, in order.
local lease_s = tonumber(ARGV[1])
local until_s = precise(now() + lease_s)
local standing = {}
for i = 2, #ARGV, 3 do
  local token, render, step = ARGV[i], ARGV[i + 1], tonumber(ARGV[i + 2])
  local key = K.render .. render
  local owner, state, wanted, seen = unpack(call('HMGET', key, 'token', 'state', 'wanted', 'step'))
  if owner ~= token or not leased(state) then
    standing[#standing + 1] = 'lost'
  else
    call('ZADD', K.leases, until_s, render)
    if step > tonumber(seen) then
      call('HSET', key, 'step', step)
      tell_step(render, step)
    end
    standing[#standing + 1] = (state == 'running' and tonumber(wanted) == 0) and 'cancel' or 'held'
  end
end
return standing
