-- Renews grants: KEYS are holders' keys, ARGV an attempt and a token for each. Touches nothing else,
-- so that it works while the lock's slot moves to another server of a cluster. Answers for each with
-- 1, or with 0 if this grant is not there or has lapsed: then the queue is asked (`report`).
local answers = {}
for index, key in ipairs(KEYS) do
  answers[index] = 0
  local record = redis.pcall('GET', key)
  if type(record) == 'string' then
    local attempt, refreshed, token, ttl, suffix = string.match(record, '^tenure/1 (%x+) (%d+) (%d+) (%d+)( .+)$')
    if attempt == ARGV[2 * index - 1] and token == ARGV[2 * index] and #refreshed <= 16 and #ttl <= 16
      and now < refreshed + ttl then
      local ttl_ms = math.ceil(ttl / 1000)
      -- A full server allows this one, and then the other.
      redis.pcall('PEXPIRE', key, ttl_ms)
      local reply = redis.pcall('SET', key, 'tenure/1 ' .. attempt .. ' ' .. stamp .. ' ' .. token .. ' ' .. ttl .. suffix, 'PX', ttl_ms)
      -- One record that cannot be written must not fail the others.
      answers[index] = reply.ok and 1 or 0
    end
  end
end
return answers
