-- Bring back renders whose pause is over and top up tickets everywhere; forget flows that owe
-- nothing, workers long gone, and poison and jobs that have expired.
-- ARGV: seconds after which a silent worker is forgotten. Answers how many tickets were added.
local time = now()
local added, queued = 0, 0
for _, pool in ipairs(call('SMEMBERS', K.pools)) do
  promote(pool)
  added = added + top_up(pool)
  queued = queued + call('ZCARD', K.pending .. pool) + call('ZCARD', K.delayed .. pool)
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
if queued == 0 then -- then nobody owes anything, whatever a damaged log says
  call('DEL', K.owed, K.owed_ms, K.waiting, K.waiting_ms)
end
local old = precise(time - RETENTION_S)
for _, render in ipairs(call('ZRANGEBYSCORE', K.poison, '-inf', old, 'LIMIT', 0, 100)) do
  if call('EXISTS', K.render .. render) == 0 then
    call('ZREM', K.poison, render)
  end
end
-- Jobs that are no longer remembered leave the index. An old one that is still open is passed over,
-- so the next turn begins where this one ended, until there are no more old ones.
local came = call('ZRANGEBYSCORE', K.jobs, call('GET', K.trimmed) or '-inf', old, 'WITHSCORES', 'LIMIT', 0, 100)
for i = 1, #came, 2 do
  local job, owner = came[i]:match('^(%S+) (%S+)$')
  if call('EXISTS', K.job .. job) == 0 then
    unindex_job(job, owner)
  end
end
if #came == 200 then
  call('SET', K.trimmed, came[200])
else
  call('DEL', K.trimmed)
end
local workers = call('HGETALL', K.workers)
for i = 1, #workers, 2 do
  if time - tonumber(workers[i + 1]:match('^%S+')) > tonumber(ARGV[1]) then
    call('HDEL', K.workers, workers[i])
  end
end
return added
