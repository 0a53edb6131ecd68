-- Renders that took down their workers too often, the oldest first.
-- Answers {{render, render hash, owners}, ...}; what has expired is left out.
local found = {}
for _, render in ipairs(call('ZRANGE', K.poison, 0, -1)) do
  local fields = call('HGETALL', K.render .. render)
  if #fields > 0 then
    local owners = {}
    for job in (call('HGET', K.render .. render, 'jobs') or ''):gmatch('%S+') do
      owners[#owners + 1] = call('HGET', K.job .. job, 'owner') or nil
    end
    found[#found + 1] = { render, fields, owners }
  end
end
return found
