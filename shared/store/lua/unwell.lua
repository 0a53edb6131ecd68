-- A worker leaves because it is unwell. ARGV: slot, a token of this leaving.
local key = K.unwell .. ARGV[1]
call('ZADD', key, 'NX', precise(now()), ARGV[2])
call('EXPIRE', key, UNWELL_S)
