-- Repair what only a damaged log produces: queued without a place in the queue, held without a
-- lease; and accounts that do not say what is queued. ARGV: renders. Answers those that were repaired.
local repaired = {}
for _, render in ipairs(ARGV) do
  local state, pool, tag = unpack(call('HMGET', K.render .. render, 'state', 'pool', 'tag'))
  if state == 'queued' and not (call('ZSCORE', K.pending .. pool, render)
      or call('ZSCORE', K.delayed .. pool, render)) then
    call('ZADD', K.pending .. pool, tag or 0, render)
    call('SADD', K.pools, pool)
    top_up(pool)
    repaired[#repaired + 1] = render
  elseif state and leased(state) and not call('ZSCORE', K.leases, render) then
    call('ZADD', K.leases, precise(now()), render) -- run out: the reaper's next turn takes it
    repaired[#repaired + 1] = render
  end
  if state == 'queued' then -- an older version of the farm keeps no accounts
    owe(render)
  elseif state then
    settle(render)
  end
end
return repaired
