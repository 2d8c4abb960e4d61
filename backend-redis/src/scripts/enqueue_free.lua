-- A lock that nobody holds, waits for or has fenced off: the common case, in few calls.
local HOLDER, FENCE, QUEUE, ENTRIES, FENCED = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local attempt, ttl, client, owner, wait, floor = unpack(ARGV)
local held = redis.call('GET', HOLDER)
local fence = redis.call('GET', FENCE)
if not held and redis.call('EXISTS', QUEUE, FENCED) == 0 then
  local last, ended = '0', ''
  if fence then last, ended = string.match(fence, '^tenure/1 (%d+)(.*)$') end
  -- Anything else is looked at below.
  if last and #last <= 19 then
    local token = next_token(last, floor)
    local stamp = string.format('%.0f', now)
    redis.call('SET', HOLDER, table.concat({'tenure/1', attempt, token, stamp, ttl, client, stamp, stamp, owner}, ' '),
      'PX', math.ceil(ttl / 1000))
    redis.call('SET', FENCE, 'tenure/1 ' .. token .. ended, 'PX', FENCE_LIFE)
    return {'granted', token, ttl}
  end
end
