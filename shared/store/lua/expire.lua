-- Jobs past their deadline lose what has not started. ARGV: how many at most. Answers those that did.
return expire_due(ARGV[1])
