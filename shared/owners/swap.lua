-- Write keys, unless the first one is not any more what the caller has read. ARGV: the hash of keys,
-- the key of their version, the new version, the first one's record as it was read (empty: whatever
-- it is), then sha256 and record of each. Answers 1, or 0: read it again.
local keys, version, fresh, was = unpack(ARGV)
if was ~= '' and redis.call('HGET', keys, ARGV[5]) ~= was then
  return 0
end
redis.call('HSET', keys, unpack(ARGV, 5))
redis.call('SET', version, fresh)
return 1
