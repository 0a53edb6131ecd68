-- Stop waiting for what is unfinished. ARGV: job.
-- Answers {'ok', snapshot}, {'finished'} (before anybody asked), or {'missing'}.
local job = ARGV[1]
local open, asked, renders = unpack(call('HMGET', K.job .. job, 'open', 'cancel_requested_at', 'renders'))
if not renders then
  return { 'missing' }
end
if tonumber(open) == 0 and not asked then
  return { 'finished' }
end
if not asked then
  call('HSET', K.job .. job, 'cancel_requested_at', precise(now()))
  local index = 0
  for render in renders:gmatch('%S+') do
    drop_image(job, index, render, 'canceled')
    index = index + 1
  end
end
return { 'ok', snapshot(job) }
