-- ARGV: job. Answers a snapshot, or false.
return snapshot(ARGV[1])
