-- A client still waits for the job. ARGV: job, client, seconds to hold it.
attend(ARGV[1], ARGV[2], tonumber(ARGV[3]))
