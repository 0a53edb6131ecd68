-- ARGV: worker, ttl seconds, status JSON.
call('HSET', K.workers, ARGV[1], precise(now()) .. ' ' .. ARGV[2] .. ' ' .. ARGV[3])
