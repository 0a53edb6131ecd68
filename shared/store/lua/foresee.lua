-- What an order would meet if it came now; nothing is written. ARGV: JSON, as for submit.
-- Answers {how its images would be answered: 'hit' | 'attached' | 'new', ...}, the place of its first
-- image in the queue and of its last (-1: none waits), the work ahead of the last, the measured rate
-- or '', how many wait, and how many of these are on the owner's account, with their milliseconds.
local order = cjson.decode(ARGV[1])
local pool = order.images[1].pool
local pending, known = K.pending .. pool, call('GET', K.rate .. pool)
local tag = start_tag(pool, order.owner .. ':' .. order.priority)

local ways, first, last, ahead_s, own, own_s = {}, -1, -1, 0, 0, 0
local function stands(rank, before_s)
  first = first < 0 and rank or math.min(first, rank)
  if rank > last then
    last, ahead_s = rank, before_s
  end
end

for index, image in ipairs(order.images) do
  local render, how
  if not order.bypass then
    render, how = answering(image.fingerprint)
  end
  ways[index] = how or 'new'
  if how == 'attached' then
    local rank = call('ZRANK', pending, render)
    if rank then
      stands(rank, work_ahead(pool, rank))
    end
  elseif not how then -- behind what has its tag or an earlier one, and behind its own others
    local others = call('ZCOUNT', pending, '-inf', precise(tag))
    stands(others + own, work_ahead(pool, others) + own_s)
    own, own_s = own + 1, own_s + image.cost
    tag = tag + image.cost * tonumber(known or 1) / order.weight
  end
end
return { ways, first, last, precise(ahead_s), known or '', call('ZCARD', pending),
  tonumber(call('HGET', K.owed, order.owner) or 0), tonumber(call('HGET', K.owed_ms, order.owner) or 0) }
