-- ARGV: fingerprint, render. Nobody is answered from this render any more.
forget(ARGV[1], ARGV[2])
