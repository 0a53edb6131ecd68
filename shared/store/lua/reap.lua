-- Renders whose lease ran out are given back, as lost. ARGV: how many at most.
-- Answers {render, state, ...}.
local moved = {}
local due = call('ZRANGEBYSCORE', K.leases, '-inf', precise(now()), 'LIMIT', 0, ARGV[1])
for _, render in ipairs(due) do
  if leased(call('HGET', K.render .. render, 'state')) then
    moved[#moved + 1] = render
    moved[#moved + 1] = give_back(render, true)
  else
    call('ZREM', K.leases, render)
  end
end
return moved
