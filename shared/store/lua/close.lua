-- End a render. ARGV: render, token, state, field ('result', 'error' or ''), its JSON, found,
-- device seconds. Answers 1 (also when this token closed it before), or 0: the lease is lost.
local render, token, state, field, value, found, device_s = unpack(ARGV)
local key = K.render .. render
local owner, old, wanted, pool, fingerprint, cost =
  unpack(call('HMGET', key, 'token', 'state', 'wanted', 'pool', 'fingerprint', 'cost'))
if owner ~= token then
  return 0
end
if not leased(old) then
  return 1
end
if state == 'canceled' and tonumber(wanted) > 0 then -- cannot be; but never cancel what is wanted
  give_back(render, false)
  return 1
end

local fields = {}
if field ~= '' then
  fields = { field, value }
end
if found == '1' then
  fields[#fields + 1] = 'found'
  fields[#fields + 1] = 1
  count('found')
end
end_render(render, state, fields)
if state == 'succeeded' then
  if cjson.decode(value).exact == false then
    forget(fingerprint, render)
  else
    call('SET', K.current .. fingerprint, render, 'NX') -- a bypassed cache learns, if it was empty
  end
  device_s = tonumber(device_s)
  if device_s > 0 and tonumber(cost) > 0 then
    local ratio = math.min(math.max(device_s / tonumber(cost), 1e-3), 1e3)
    local rate = tonumber(call('GET', K.rate .. pool) or ratio)
    call('SET', K.rate .. pool, precise(rate + 0.1 * (ratio - rate)))
  end
end
top_up(pool)
return 1
