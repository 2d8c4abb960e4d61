-- A holder that leaves, with nobody behind it: the common case, in few calls.
local HOLDER, FENCE, QUEUE, ENTRIES, FENCED = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local attempt, fence, floor = ARGV[1], ARGV[2], ARGV[3]
if fence == '0' and redis.call('EXISTS', QUEUE) == 0 then
  local held = redis.pcall('GET', HOLDER)
  local ttl, refreshed
  if type(held) == 'string' and string.sub(held, 1, 41) == 'tenure/1 ' .. attempt then
    ttl, refreshed = string.match(held, '^%S+ %S+ %S+ %S+ (%d+) %d+ (%d+) ')
  end
  if ttl and now < refreshed + ttl then
    redis.call('DEL', HOLDER)
    return 'holder'
  end
end
