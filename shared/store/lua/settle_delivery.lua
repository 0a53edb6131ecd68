-- Note an attempt. ARGV: job, name, owner, lane, token, attempt JSON, its outcome for the count,
-- state, pause seconds. Answers 1, or 0: the delivery is not held any more.
local job, name, owner, lane, token, attempt, outcome, state, pause_s = unpack(ARGV)
local key, member = K.deliveries .. job, job .. ' ' .. name
if call('HGET', key, name .. ':token') ~= token then
  return 0
end
local time = now()
local line, log = unpack(call('HMGET', key, name, name .. ':log'))
local at, _, tries = line:match('^(%S+) (%S+) (%d+)')
local due = precise(time + tonumber(pause_s))
local lines = {}
for each in ((log or '') .. precise(time) .. ' ' .. attempt .. '\n'):gmatch('[^\n]+') do
  lines[#lines + 1] = each
end
local first = math.max(1, #lines - LOG_MOST + 1)
call('HSET', key, name, table.concat({ at, state, tries + 1, due }, ' '),
  name .. ':log', table.concat(lines, '\n', first) .. '\n')
call('HDEL', key, name .. ':token')
call('ZREM', K.flight .. owner, member)
call('ZREM', K.flight .. owner .. ' ' .. lane, member)
if state == 'waiting' then
  call('ZADD', K.lane .. owner .. ' ' .. lane, due, member)
  call('ZADD', K.undelivered, due, member)
else
  call('HDEL', key, name .. ':body')
  call('ZREM', K.lane .. owner .. ' ' .. lane, member)
  call('ZREM', K.undelivered, member)
end
queue_up(owner, lane, time)
call('HINCRBY', K.delivered, outcome, 1)
return 1
