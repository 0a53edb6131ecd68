-- running -> storing. ARGV: render, token, step. Answers 1, or 0 when the lease is lost.
local render, token, step = unpack(ARGV)
local key = K.render .. render
local owner, state = unpack(call('HMGET', key, 'token', 'state'))
if owner ~= token or not leased(state) then
  return 0
end
call('HSET', key, 'state', 'storing', 'step', step)
tell_step(render, step)
return 1
