-- Device milliseconds of today by owner. ARGV: how many owners are named.
-- Answers {all of it, owner, ms, owner, ms, ...}, the largest first. O(owners of today).
local spent, all = call('ZREVRANGE', K.spent .. math.floor(now() / 86400), 0, -1, 'WITHSCORES'), 0
local seen = { 0 }
for i = 1, #spent, 2 do
  all = all + tonumber(spent[i + 1])
  if i < 2 * ARGV[1] then
    seen[#seen + 1] = spent[i]
    seen[#seen + 1] = spent[i + 1]
  end
end
seen[1] = precise(all)
return seen
