-- Cancel what is queued of a job. ARGV: job. Answers a snapshot, or false.
abandon(ARGV[1])
return snapshot(ARGV[1])
