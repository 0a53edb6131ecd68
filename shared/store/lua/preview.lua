-- A half-made picture, told to those who ordered so many. ARGV: render, token, number, base64.
local render, token, number, data = unpack(ARGV)
local owner, state = unpack(call('HMGET', K.render .. render, 'token', 'state'))
if owner ~= token or not leased(state) then
  return 0
end
for _, waiter in ipairs(call('SMEMBERS', K.waiters .. render)) do
  local job, index = waiter:match('^(.*):(%d+)$')
  local ordered = tonumber(call('HGET', K.job .. job, 'previews') or 0)
  if tonumber(number) < ordered and heard(job) then
    local said = '{"type":"image.preview","index":%d,"partial_image_index":%d,"b64_json":"%s"}'
    tell(job, said:format(index, number, data))
  end
end
return 1
