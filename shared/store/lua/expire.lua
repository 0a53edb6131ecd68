-- Jobs past their deadline lose what has not started. ARGV: how many at most. Answers these jobs.
return expire_due(ARGV[1])
