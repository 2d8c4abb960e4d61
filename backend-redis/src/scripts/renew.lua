-- Renews grants: KEYS are holders' keys, ARGV an attempt and a token for each. Touches nothing else,
-- so that it works while the lock's slot moves to another server of a cluster. Answers for each with
-- 1, or with 0 if this grant is not there or has lapsed: then the queue is asked (`report`).
local answers = {}
for index, key in ipairs(KEYS) do
  answers[index] = 0
  local held = redis.pcall('GET', key)
  if type(held) == 'string' then
    local attempt, refreshed, token, ttl, rest = string.match(held, '^tenure/1 (%x+) (%d+) (%d+) (%d+)( .+)$')
    if attempt == ARGV[2 * index - 1] and token == ARGV[2 * index] and #refreshed <= 16 and #ttl <= 16
      and now < refreshed + ttl then
      local life = math.ceil(ttl / 1000)
      -- A full server allows this one, and then the other.
      redis.pcall('PEXPIRE', key, life)
      local done = redis.pcall('SET', key, 'tenure/1 ' .. attempt .. ' ' .. stamp .. ' ' .. token .. ' ' .. ttl .. rest, 'PX', life)
      -- One record that cannot be written must not fail the others.
      answers[index] = done.ok and 1 or 0
    end
  end
end
return answers
