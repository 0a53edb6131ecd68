-- A job as one moment sees it.

-- The id of a job's newest event, as shared/events.py spells it; '' where it has none.
local function newest(job)
  local number = call('LLEN', K.events .. job)
  local at = number > 0 and call('LINDEX', K.events .. job, -1):match('^%S+')
  return at and (number .. '-' .. at:gsub('%.', '')) or ''
end

-- Predicted device seconds of the first `renders` of a queue: exact for SAMPLE of them, else from one
-- of each of SAMPLE equal stretches, at a place that differs, since a queue of few flows is periodic.
local SAMPLE = 32
local function work_ahead(pool, renders)
  local pending, ahead, sum = K.pending .. pool, {}, 0
  if renders <= SAMPLE then
    ahead = renders > 0 and call('ZRANGE', pending, 0, renders - 1) or ahead
  else
    for i = 0, SAMPLE - 1 do
      local at = math.floor((i + (i + 1) * 0.6180339887498949 % 1) * renders / SAMPLE)
      ahead[#ahead + 1] = call('ZRANGE', pending, at, at)[1]
    end
  end
  for _, render in ipairs(ahead) do
    sum = sum + tonumber(call('HGET', K.render .. render, 'cost') or 0)
  end
  return #ahead > 0 and sum * renders / #ahead or 0
end

-- A job as one moment sees it: {now, job hash, {render, render hash, rank or -1, measured rate or '',
-- work ahead or ''}, ...}; false: none. Only its last queued image is told what is ahead.
local function snapshot(job)
  local record = call('HGETALL', K.job .. job)
  if #record == 0 then
    return false
  end
  record[#record + 1] = 'newest'
  record[#record + 1] = newest(job)
  local seen = { precise(now()), record }
  local last, last_rank, last_pool
  for render in call('HGET', K.job .. job, 'renders'):gmatch('%S+') do
    local fields = call('HGETALL', K.render .. render)
    local pool, state = unpack(call('HMGET', K.render .. render, 'pool', 'state'))
    local rank = pool and call('ZRANK', K.pending .. pool, render) or false
    local rate = pool and is_open(state) and call('GET', K.rate .. pool) or ''
    local entry = { render, fields, rank or -1, rate, '' }
    if rank and rank > (last_rank or -1) then
      last, last_rank, last_pool = entry, rank, pool
    end
    seen[#seen + 1] = entry
  end
  if last then
    last[5] = precise(work_ahead(last_pool, last_rank))
  end
  return seen
end
