-- A stored picture is about to be deleted: from now on no claim may publish it (close looks here).
-- ARGV: fingerprint, token of the picture, seconds to remember. Answers 1, or 0 where an order is,
-- or may soon be, answered with it.
local fingerprint, token, memory_s = unpack(ARGV)
local current = call('GET', K.current .. fingerprint)
if current then
  local state, result = unpack(call('HMGET', K.render .. current, 'state', 'result'))
  if state and is_open(state) or result and cjson.decode(result).token == token then
    return 0
  end
end
call('SET', K.condemned .. token, 1, 'EX', memory_s)
return 1
