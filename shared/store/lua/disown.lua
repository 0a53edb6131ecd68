-- Nobody new is answered with the pictures that only this job has. ARGV: job.
-- Answers {'ok', {render, its result, found or ''}, ...}, {'open'} or {'missing'}.
local job = ARGV[1]
local open, renders = unpack(call('HMGET', K.job .. job, 'open', 'renders'))
if not renders then
  return { 'missing' }
end
if tonumber(open) > 0 then
  return { 'open' }
end
local owned = { 'ok' }
for render in renders:gmatch('%S+') do
  local result, fingerprint, found =
    unpack(call('HMGET', K.render .. render, 'result', 'fingerprint', 'found'))
  if result and not others_use(render, job) then
    forget(fingerprint, render)
    owned[#owned + 1] = { render, result, found or '' }
  end
end
return owned
