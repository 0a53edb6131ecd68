-- What happened to a job. ARGV: job, number of the last event that is known (0: none), its time.
-- Answers lines, oldest first, or false where it knows no such event.
local job, number, at = unpack(ARGV)
number = tonumber(number)
if number > 0 then
  local line = call('LINDEX', K.events .. job, number - 1)
  if not line or line:match('^%S+'):gsub('%.', '') ~= at then
    return false
  end
end
return call('LRANGE', K.events .. job, number, -1)
