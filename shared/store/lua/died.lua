-- ARGV: slot, cause. Why the worker of this slot ended.
bury(ARGV[1], ARGV[2])
