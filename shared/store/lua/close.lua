-- End a render, or delay it after a fault that may pass. ARGV: render, token, state, field
-- ('result', 'verdict', 'error' or ''), its JSON, found, device seconds, retryable.
-- Answers {'lost'}, {'closed'} or {'retrying', number, seconds}; a repeated call answers alike.
local render, token, state, field, value, found, device_s, retryable = unpack(ARGV)
local key = K.render .. render
local owner, old, wanted, pool, fingerprint, cost, retries =
  unpack(call('HMGET', key, 'token', 'state', 'wanted', 'pool', 'fingerprint', 'cost', 'retries'))
if owner ~= token then
  return { 'lost' }
end
if old == 'queued' then
  local due = call('ZSCORE', K.delayed .. pool, render)
  return { 'retrying', tonumber(retries), precise(due and tonumber(due) - now() or 0) }
end
if not leased(old) then
  return { 'closed' }
end
if state == 'canceled' and tonumber(wanted) > 0 then -- cannot be; but never cancel what is wanted
  give_back(render, false)
  return { 'closed' }
end
if retryable == '1' and tonumber(retries or 0) < MAX_RETRIES then
  if tonumber(wanted) == 0 then
    end_render(render, 'canceled')
    return { 'closed' }
  end
  local number, pause_s = delay(render, value)
  return { 'retrying', number, precise(pause_s) }
end
if state == 'succeeded' then
  local kept = found == '1' and cjson.decode(value).token or token
  if call('EXISTS', K.condemned .. kept) == 1 then -- gc is taking that picture away: make another
    call('HSET', key, 'fresh', 1)
    give_back(render, false)
    return { 'lost' }
  end
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
if state == 'succeeded' and field == 'result' then
  if cjson.decode(value).exact == false then
    forget(fingerprint, render)
  else -- a bypassed cache learns, if it was empty; before the job's end, which says for how long
    call('SET', K.current .. fingerprint, render, 'NX')
  end
end
end_render(render, state, fields)
if state == 'succeeded' then
  device_s = tonumber(device_s)
  spend(render, pool, device_s)
  if device_s > 0 and tonumber(cost) > 0 then
    local ratio = math.min(math.max(device_s / tonumber(cost), 1e-3), 1e3)
    local rate = tonumber(call('GET', K.rate .. pool) or ratio)
    call('SET', K.rate .. pool, precise(rate + 0.1 * (ratio - rate)))
  end
end
top_up(pool)
return { 'closed' }
