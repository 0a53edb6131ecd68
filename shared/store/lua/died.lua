-- ARGV: slot, cause. Why the worker of this slot ended. The count may be one too high
-- where this is repeated after an outage.
bury(ARGV[1], ARGV[2])
call('HINCRBY', K.deaths, ARGV[2], 1)
