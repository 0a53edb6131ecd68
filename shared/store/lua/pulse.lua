-- How far jobs are, cheaply and many at once. ARGV: jobs. Answers {how many events, how many open
-- images, rank of the first that is pending or -1, the place of the last: {pool, rank, work ahead, its
-- own, measured rate or ''} or nothing} for each; -1 events: there is no such job.
local function places(renders)
  local first, last, place = -1, -1, {}
  for render in renders:gmatch('%S+') do
    local pool, cost = unpack(call('HMGET', K.render .. render, 'pool', 'cost'))
    local rank = pool and call('ZRANK', K.pending .. pool, render)
    if rank then
      first = first < 0 and rank or math.min(first, rank)
      if rank > last then
        last, place = rank, { pool, rank, '', cost, call('GET', K.rate .. pool) or '' }
      end
    end
  end
  if place[1] then
    place[3] = precise(work_ahead(place[1], last))
  end
  return first, place
end

local seen = {}
for _, job in ipairs(ARGV) do
  local open, renders = unpack(call('HMGET', K.job .. job, 'open', 'renders'))
  if renders then
    seen[#seen + 1] = { call('LLEN', K.events .. job), tonumber(open), places(renders) }
  else
    seen[#seen + 1] = { -1, 0, -1, {} }
  end
end
return seen
