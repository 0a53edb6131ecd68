-- The secrets that sign for an owner, newest first. ARGV: owner, proposal, rotate, seconds that a
-- replaced one signs on, most secrets. The proposal is taken where there is none, or to rotate.
local owner, proposal, rotate, overlap_s, most = unpack(ARGV)
local key = K.webhooks .. owner
local time = now()
call('ZREMRANGEBYSCORE', key, '-inf', precise(time))
local newest = call('ZRANGE', key, -1, -1)[1]
if not newest or (rotate == '1' and not call('ZSCORE', key, proposal)) then
  if newest then
    call('ZADD', key, precise(time + tonumber(overlap_s)), newest)
  end
  call('ZADD', key, '+inf', proposal)
  call('ZREMRANGEBYRANK', key, 0, -1 - tonumber(most))
end
return call('ZREVRANGE', key, 0, -1)
