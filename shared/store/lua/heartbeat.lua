-- ARGV: worker, ttl seconds, status JSON. Answers what the farm wants of it: {order or false, how
-- often workers of this name left as unwell within UNWELL_S}.
local worker, ttl, status = unpack(ARGV)
local time = now()
call('HSET', K.workers, worker, precise(time) .. ' ' .. ttl .. ' ' .. status)
local unwell = call('ZCOUNT', K.unwell .. worker, precise(time - UNWELL_S), '+inf')
return { call('HGET', K.orders, worker), unwell }
