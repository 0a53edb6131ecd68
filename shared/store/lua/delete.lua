-- Forget a finished job, and the renders that no other job refers to. ARGV: job.
-- Answers 'ok' (also where there is no such job: it may have been this very call), or 'open'.
local job = ARGV[1]
local key = K.job .. job
local open, renders, owner, idem = unpack(call('HMGET', key, 'open', 'renders', 'owner', 'idem'))
if not renders then
  return 'ok'
end
if tonumber(open) > 0 then
  return 'open'
end
for render in renders:gmatch('%S+') do
  local fingerprint = call('HGET', K.render .. render, 'fingerprint')
  if fingerprint and not others_use(render, job) then
    forget(fingerprint, render)
    call('ZREM', K.poison, render)
    call('DEL', K.render .. render, K.users .. render)
  end
end
if idem and (call('GET', idem) or ''):match('^%S+') == job then
  call('DEL', idem)
end
unindex_job(job, owner)
call('ZREM', K.attended, job)
call('DEL', key, K.events .. job, K.deliveries .. job)
return 'ok'
