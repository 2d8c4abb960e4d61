-- A holder that leaves, with nobody behind it: the common case, in few calls.
local HOLDER, FENCE, QUEUE, ENTRIES, FENCED = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local attempt, fence, floor = ARGV[1], ARGV[2], ARGV[3]
if fence == '0' and redis.call('EXISTS', QUEUE) == 0 then
  local held = redis.pcall('GET', HOLDER)
  if type(held) == 'string' and string.sub(held, 1, 41) == 'tenure/1 ' .. attempt then
    local refreshed, ttl = string.match(held, '^ (%d+) %d+ (%d+) ', 42)
    if ttl and now < refreshed + ttl then
      redis.call('DEL', HOLDER)
      return 'holder'
    end
  end
end
