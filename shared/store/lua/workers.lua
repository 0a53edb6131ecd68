-- Every worker as one moment sees it.
-- Answers {now, {its line in K.workers, its slot's last death or false, how many renders it holds}, ...}.
local seen = { precise(now()) }
for _, worker in ipairs(call('HKEYS', K.workers)) do
  seen[#seen + 1] = { call('HGET', K.workers, worker), call('GET', K.death .. worker),
    call('SCARD', K.slot .. worker) }
end
return seen
