-- Renews grants. KEYS are holder keys; ARGV has an attempt and a token for each. The script touches
-- nothing else, so it works while the lock's slot moves to another node of a cluster. It returns 1
-- for each renewed grant and 0 for a grant that is missing or has lapsed; the `report` script then
-- handles that grant.
local answers = {}
for index, key in ipairs(KEYS) do
  answers[index] = 0
  local record = redis.pcall('GET', key)
  if type(record) == 'string' then
    local attempt, refreshed, token, ttl, suffix = string.match(record, '^tenure/1 (%x+) (%d+) (%d+) (%d+)( .+)$')
    if attempt == ARGV[2 * index - 1] and token == ARGV[2 * index] and #refreshed <= 16 and #ttl <= 16
      and now < refreshed + ttl then
      local ttl_ms = math.ceil(ttl / 1000)
      -- A full server allows PEXPIRE, and after the first write it allows SET.
      redis.pcall('PEXPIRE', key, ttl_ms)
      local reply = redis.pcall('SET', key, 'tenure/1 ' .. attempt .. ' ' .. stamp .. ' ' .. token .. ' ' .. ttl .. suffix, 'PX', ttl_ms)
      -- A record that cannot be written must not fail the others.
      answers[index] = reply.ok and 1 or 0
    end
  end
end
return answers
