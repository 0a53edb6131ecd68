-- How far jobs are, cheaply and many at once. ARGV: jobs. Answers {how many events, how many open
-- images, rank of the first that is pending or -1} for each; -1 events: there is no such job.
local function rank(renders)
  local first = -1
  for render in renders:gmatch('%S+') do
    local pool = call('HGET', K.render .. render, 'pool')
    local at = pool and call('ZRANK', K.pending .. pool, render)
    if at and (first < 0 or at < first) then
      first = at
    end
  end
  return first
end

local seen = {}
for _, job in ipairs(ARGV) do
  local open, renders = unpack(call('HMGET', K.job .. job, 'open', 'renders'))
  if renders then
    seen[#seen + 1] = { call('LLEN', K.events .. job), tonumber(open), rank(renders) }
  else
    seen[#seen + 1] = { -1, 0, -1 }
  end
end
return seen
