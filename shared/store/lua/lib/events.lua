-- What is told of a job: stored events, and what only passes.

-- To whoever listens to a job now. A server that lets us tell nobody must not stop the work.
local function tell(job, message)
  redis.pcall('PUBLISH', K.live .. job, message)
end

-- An event of a job: remembered as long as the job, and told to whoever listens now. Its number is
-- its place in the list. `index` and `attempt` are the image's, if it is about one.
local function emit(job, type, index, attempt)
  local line = string.format('%.3f %s', now(), type)
  if index then
    line = line .. ' ' .. index .. ' ' .. (attempt or 0)
  end
  local number = call('RPUSH', K.events .. job, line)
  tell(job, number .. ' ' .. line)
  post(job, type, index)
end

-- Whether somebody listens to a job.
local function heard(job)
  local seen = redis.pcall('PUBSUB', 'NUMSUB', K.live .. job)
  return not seen.err and seen[2] > 0
end

-- How many steps are run: from an input picture only the last part of the schedule, but one at least.
local function steps_to_run(spec)
  if type(spec.init_image_sha256) ~= 'string' or type(spec.strength) ~= 'number' then
    return spec.steps
  end
  return spec.steps - math.min(math.floor(spec.steps - spec.steps * spec.strength), spec.steps - 1)
end

-- Steps done are told, not remembered.
local function tell_step(render, step)
  local steps
  for _, waiter in ipairs(call('SMEMBERS', K.waiters .. render)) do
    local job, index = waiter:match('^(.*):(%d+)$')
    if heard(job) then
      steps = steps or steps_to_run(cjson.decode(call('HGET', K.render .. render, 'spec')))
      local said = '{"type":"image.progress","index":%d,"step":%d,"steps":%d}'
      tell(job, said:format(index, step, steps))
    end
  end
end

local function image_running(job, index, attempt)
  local open, started = unpack(call('HMGET', K.job .. job, 'open', 'started'))
  if not open then -- a job that is gone has no events
    return
  end
  if not started then
    call('HSET', K.job .. job, 'started', 1)
    emit(job, 'job.running')
  end
  emit(job, 'image.running', index, attempt)
end
