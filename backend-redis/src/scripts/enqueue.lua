return guarded(function()
  local lock = lock(HOLDER, FENCE, QUEUE, ENTRIES)
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
  if wait == '0' then return lock.busy('busy', holder) end
  return lock.append(attempt, ttl, client, owner, holder)
end)
