-- Give a render back. ARGV: render, token, lost, cause, detail.
-- Answers 1, or 0: it was not held any more.
local render, token, lost, cause, detail = unpack(ARGV)
local owner, state = unpack(call('HMGET', K.render .. render, 'token', 'state'))
if owner ~= token or not leased(state) then
  return 0
end
give_back(render, lost == '1', cause, detail)
return 1
