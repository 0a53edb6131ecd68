-- A stretch of the index of jobs. ARGV: owner ('' = everybody), cursor (a job or ''), when the cursor
-- came by its id, newest first (1 or 0), since, until ('' = open), how many.
-- Answers {1 if the index goes on, job, ...}. O(log n + how many).
local owner, cursor, came_at, newest_first, since, till, most = unpack(ARGV)
local key = owner == '' and K.jobs or K.owned .. owner
newest_first = newest_first == '1'

-- Ranks count from the oldest; what is wanted has ranks from `low` to `high` - 1.
local low = since == '' and 0 or call('ZCOUNT', key, '-inf', '(' .. since)
local high = till == '' and call('ZCARD', key) or call('ZCOUNT', key, '-inf', '(' .. till)
if cursor ~= '' then
  local member = cursor
  if owner == '' then
    member = cursor .. ' ' .. (call('HGET', K.job .. cursor, 'owner') or '')
  end
  local rank = call('ZRANK', key, member)
  if newest_first then
    high = math.min(high, rank or call('ZCOUNT', key, '-inf', '(' .. came_at))
  else
    low = math.max(low, rank and rank + 1 or call('ZCOUNT', key, '-inf', came_at))
  end
end

local found = { high - low > tonumber(most) and 1 or 0 }
if high > low then
  local members
  if newest_first then
    members = call('ZRANGE', key, math.max(low, high - most), high - 1)
  else
    members = call('ZRANGE', key, low, math.min(low + most, high) - 1)
  end
  for i = 1, #members do
    local member = members[newest_first and #members + 1 - i or i]
    found[#found + 1] = member:match('^%S+')
  end
end
return found
