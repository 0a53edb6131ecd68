-- Abandon jobs whose client has left, or was cut off with its API process, too long ago.
-- Chores that were away for long may have been so with the whole store, and then nobody could say
-- that a client still waits: what ran out meanwhile gets RESPITE_S.
-- ARGV: how many at most. Answers the jobs that lost images.
local AWAY_S, RESPITE_S = 3, 5
local time, abandoned = now(), {}
local last = tonumber(call('GET', K.unattended) or time)
redis.pcall('SET', K.unattended, precise(time)) -- a full server takes no write, and has its own errors
if time - last > AWAY_S then
  for _, job in ipairs(call('ZRANGEBYSCORE', K.attended, '-inf', precise(time))) do
    call('ZADD', K.attended, precise(time + RESPITE_S), job)
  end
end
for _, job in ipairs(call('ZRANGEBYSCORE', K.attended, '-inf', precise(time), 'LIMIT', 0, ARGV[1])) do
  if abandon(job) > 0 then
    abandoned[#abandoned + 1] = job
  end
end
return abandoned
