-- What the states of a render mean.

local function forget(fingerprint, render)
  if call('GET', K.current .. fingerprint) == render then
    call('DEL', K.current .. fingerprint)
  end
end

local function unlease(render, slot)
  call('ZREM', K.leases, render)
  if slot then
    call('SREM', K.slot .. slot, render)
  end
end

local function leased(state)
  return state == 'running' or state == 'storing'
end

local function is_open(state)
  return state == 'queued' or leased(state)
end
