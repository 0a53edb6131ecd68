-- What the claim of this token got is given back, as lost; if it has not arrived yet it will get
-- nothing. ARGV: token, cause, detail. Answers the render, or false: none was held.
local token, cause, detail = unpack(ARGV)
local render = call('GET', K.token .. token)
if not render then
  call('SET', K.token .. token, '', 'EX', 3600) -- no render has this name
  return false
end
local owner, state = unpack(call('HMGET', K.render .. render, 'token', 'state'))
if owner ~= token or not leased(state) then
  return false
end
give_back(render, true, cause, detail)
return render
