-- A client of the job gives up; if it was the last that held it, what is queued is canceled.
-- ARGV: job, client. Answers a snapshot, or false.
local job, client = unpack(ARGV)
call('HDEL', K.job .. job, 'client:' .. client)
if call('ZSCORE', K.attended, job) and is_alone(job) then
  abandon(job)
end
return snapshot(job)
