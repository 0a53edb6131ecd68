-- Try a delivery now, with a fresh body and all its tries. ARGV: job, name.
-- Answers 1, or 0: there is no such delivery.
local job, name = unpack(ARGV)
local key = K.deliveries .. job
local line = call('HGET', key, name)
local owner, hook = unpack(call('HMGET', K.job .. job, 'owner', 'hook'))
if not line or not hook then
  return 0
end
local due = precise(now())
call('HSET', key, name, line:match('^%S+') .. ' waiting 0 ' .. due)
call('HDEL', key, name .. ':body', name .. ':token')
send_off(owner, hook:match('^%S+'), job .. ' ' .. name, due)
return 1
