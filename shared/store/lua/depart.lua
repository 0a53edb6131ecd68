-- A client of the job has left. ARGV: job, client, seconds until what is queued is canceled.
local job, client, gone_s = unpack(ARGV)
call('HDEL', K.job .. job, 'client:' .. client)
call('ZADD', K.attended, 'XX', 'GT', precise(now() + gone_s), job)
