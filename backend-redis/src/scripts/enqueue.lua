local function enqueue(key, word)
  local HOLDER, QUEUE, FENCED = KEYS[key - 4], KEYS[key - 2], KEYS[key]
  local attempt, whose = ARGV[word - 1], ARGV[word]
  local lock = lock(HOLDER, KEYS[key - 3], QUEUE, KEYS[key - 1])
  local ttl, client, owner = string.match(whose, '^(%d+) (%x+) (%S+)$')
  ttl = tonumber(ttl)
  local holder = lock.settle()
  local fenced = ask('GET', FENCED)
  if fenced then
    local since, life = string.match(fenced, '^tenure/1 (%d+) (%d+)$')
    if not since then malformed(FENCED, fenced) end
    if now < since + life then return {'gone', 'evicted'} end
  end
  if (holder and holder.attempt == attempt) or lock.find(attempt) then
    return lock.report(attempt, holder)
  end
  if not holder and redis.call('EXISTS', QUEUE) == 0 then
    return lock.grant(attempt, ttl, client, owner)
  end
  if once ~= '' then return lock.busy('busy', holder) end
  return lock.append(attempt, ttl, client, owner, holder)
end

for _, item in ipairs(rest) do
  answers[item] = guarded(function() return enqueue(5 * item, 3 * item) end)
end
return answers
