-- How far jobs are, cheaply and many at once. ARGV: jobs. Answers {how many events, how many open
-- images, rank of the first that is pending or -1} for each; -1 events: there is no such job.
local function first_rank(renders)
  local first = -1
  for render in renders:gmatch('%S+') do
    local pool = call('HGET', K.render .. render, 'pool')
    local rank = pool and call('ZRANK', K.pending .. pool, render)
    if rank then
      first = first < 0 and rank or math.min(first, rank)
    end
  end
  return first
end

local seen = {}
for _, job in ipairs(ARGV) do
  local open, renders = unpack(call('HMGET', K.job .. job, 'open', 'renders'))
  if renders then
    seen[#seen + 1] = { call('LLEN', K.events .. job), tonumber(open), first_rank(renders) }
  else
    seen[#seen + 1] = { -1, 0, -1 }
  end
end
return seen
