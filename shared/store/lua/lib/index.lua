-- Which jobs there are, and what answers an order.

-- The index of jobs by when they came: everybody's, and each owner's.
local function index_job(job, owner, time)
  call('ZADD', K.jobs, precise(time), job .. ' ' .. owner)
  call('ZADD', K.owned .. owner, precise(time), job)
end

local function unindex_job(job, owner)
  call('ZREM', K.jobs, job .. ' ' .. owner)
  call('ZREM', K.owned .. owner, job)
end

-- Whether a job other than this one refers to a render. The one that it was made for stands in its
-- hash, later ones in a set: the newest outlives the others as a rule, and those that are no longer
-- remembered leave the set on the way, so this looks at little.
local function others_use(render, job)
  local first, state = unpack(call('HMGET', K.render .. render, 'job', 'state'))
  if not first or is_open(state) then -- an older version made it, and did not say for whom
    return true
  end
  if first ~= job and call('EXISTS', K.job .. first) == 1 then
    return true
  end
  local users, behind = K.users .. render, 0
  while true do
    local newest = call('ZREVRANGE', users, behind, behind)[1]
    if not newest then
      return false
    end
    if newest == job then -- it stays: who asks may not delete it after all
      behind = 1
    elseif call('EXISTS', K.job .. newest) == 1 then
      return true
    else
      call('ZREM', users, newest)
    end
  end
end

-- A job refers to a render that was not made for it. Each that comes looks at the two oldest, so the
-- set holds little more than what is remembered.
local function refer(render, job, time)
  local users = K.users .. render
  call('ZADD', users, precise(time), job)
  call('PERSIST', users)
  for _, old in ipairs(call('ZRANGE', users, 0, 1)) do
    if call('EXISTS', K.job .. old) == 0 then
      call('ZREM', users, old)
    end
  end
end

-- Which render answers an image: one that succeeded, or one that somebody still waits for.
local function answering(fingerprint)
  local render = call('GET', K.current .. fingerprint)
  if not render then
    return nil
  end
  local state, wanted = unpack(call('HMGET', K.render .. render, 'state', 'wanted'))
  if state == 'succeeded' then
    return render, 'hit'
  end
  if state and is_open(state) and tonumber(wanted) > 0 then
    return render, 'attached'
  end
  return nil
end
