-- Bring back renders whose pause is over, top up tickets everywhere, forget flows that owe nothing and workers long gone.
-- ARGV: seconds after which a silent worker is forgotten. Answers how many tickets were added.
local time = now()
local added = 0
for _, pool in ipairs(call('SMEMBERS', K.pools)) do
  promote(pool)
  added = added + top_up(pool)
  local vtime = tonumber(call('GET', K.vtime .. pool) or 0)
  if call('ZCARD', K.pending .. pool) == 0 then
    local flows = call('HGETALL', K.flows .. pool)
    for i = 1, #flows, 2 do
      if tonumber(flows[i + 1]) <= vtime then
        call('HDEL', K.flows .. pool, flows[i])
      end
    end
  end
end
local workers = call('HGETALL', K.workers)
for i = 1, #workers, 2 do
  if time - tonumber(workers[i + 1]:match('^%S+')) > tonumber(ARGV[1]) then
    call('HDEL', K.workers, workers[i])
  end
end
return added
