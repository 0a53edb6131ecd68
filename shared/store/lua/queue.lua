-- How much waits and runs. ARGV: owner ('' = every owner), then pools.
-- Answers {{owner, queued, running}, ...}, then for each pool {pending, delayed, running, storing, when
-- its longest waiting came or '', work pending, measured rate or '', {queued, their ms, running, storing}
-- of each of PRIORITIES}. The longest waiting is looked for
-- among the next HEADS: in fair order every owner's oldest is near the head. O(owners + leases).
local HEADS = 64
local PRIORITIES = { 'high', 'normal', 'low' }
local only = ARGV[1]
local owners, held = {}, {}

local function of(owner)
  owners[owner] = owners[owner] or { queued = 0, running = 0 }
  return owners[owner]
end

if only == '' then
  local owed = call('HGETALL', K.owed)
  for i = 1, #owed, 2 do
    of(owed[i]).queued = tonumber(owed[i + 1])
  end
else
  of(only).queued = tonumber(call('HGET', K.owed, only) or 0)
end
for _, render in ipairs(call('ZRANGE', K.leases, 0, -1)) do
  local pool, state, flow = unpack(call('HMGET', K.render .. render, 'pool', 'state', 'flow'))
  if pool and leased(state) then
    local owner, priority = flow:match('^(.*):(.*)$')
    for _, lane in ipairs({ pool, pool .. ' ' .. priority }) do
      held[lane] = held[lane] or { running = 0, storing = 0 }
      held[lane][state] = held[lane][state] + 1
    end
    if only == '' or owner == only then
      of(owner).running = of(owner).running + 1
    end
  end
end

local seen = { {} }
for owner, counts in pairs(owners) do
  table.insert(seen[1], { owner, counts.queued, counts.running })
end
for i = 2, #ARGV do
  local pool = ARGV[i]
  local pending, here = call('ZCARD', K.pending .. pool), held[pool] or { running = 0, storing = 0 }
  local oldest
  for _, key in ipairs({ K.pending, K.delayed }) do
    for _, render in ipairs(call('ZRANGE', key .. pool, 0, HEADS - 1)) do
      local came = tonumber(call('HGET', K.render .. render, 'queued_at') or nil)
      oldest = came and math.min(came, oldest or came) or oldest
    end
  end
  local lanes = {}
  for k, priority in ipairs(PRIORITIES) do
    local lane = pool .. ' ' .. priority
    local holds = held[lane] or { running = 0, storing = 0 }
    lanes[k] = { tonumber(call('HGET', K.waiting, lane) or 0), tonumber(call('HGET', K.waiting_ms, lane) or 0),
      holds.running, holds.storing }
  end
  seen[#seen + 1] = { pending, call('ZCARD', K.delayed .. pool), here.running, here.storing,
    oldest and precise(oldest) or '', precise(work_ahead(pool, pending)), call('GET', K.rate .. pool) or '', lanes }
end
return seen
