-- What an earlier process on this slot still holds is given back, as lost. ARGV: slot.
-- Answers {render, state, ...}.
local slot = ARGV[1]
local moved = {}
for _, render in ipairs(call('SMEMBERS', K.slot .. slot)) do
  local holder, state = unpack(call('HMGET', K.render .. render, 'slot', 'state'))
  if holder == slot and leased(state) then
    moved[#moved + 1] = render
    moved[#moved + 1] = give_back(render, true)
  end
end
call('DEL', K.slot .. slot)
return moved
