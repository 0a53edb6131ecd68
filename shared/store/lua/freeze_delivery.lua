-- The first body given is that of all attempts. ARGV: job, name, token, body.
-- Answers it, or false: the delivery is not held any more.
local job, name, token, body = unpack(ARGV)
local key = K.deliveries .. job
if call('HGET', key, name .. ':token') ~= token then
  return false
end
call('HSETNX', key, name .. ':body', body)
return call('HGET', key, name .. ':body')
