local function enqueue(key_index, arg_index)
  local HOLDER, QUEUE, FENCE = KEYS[key_index - 4], KEYS[key_index - 2], KEYS[key_index]
  local attempt, attempt_fields = ARGV[arg_index - 1], ARGV[arg_index]
  local lock = lock(HOLDER, KEYS[key_index - 3], QUEUE, KEYS[key_index - 1])
  local ttl, client, owner, mode = string.match(attempt_fields, '^(%d+) (%x+) (%S+) ?(%S*)$')
  ttl = tonumber(ttl)
  local holder = lock.expire_lapsed()
  local fence = checked_call('GET', FENCE)
  if fence then
    local since, fence_ttl = string.match(fence, '^tenure/1 (%d+) (%d+)$')
    if not since then malformed(FENCE, fence) end
    if now < since + fence_ttl then return {'gone', 'evicted'} end
  end
  if (holder and holder.attempt == attempt) or lock.find_entry(attempt) then
    return lock.renew_or_report(attempt, holder)
  end
  local is_free = not holder and redis.call('EXISTS', QUEUE) == 0
  if is_free and mode == '' then return lock.grant(attempt, ttl, client, owner) end
  local entry =
    {refreshed = now, ttl = ttl, client = client, enqueued = stamp, as_of = now, owner = owner}
  if mode ~= '' then
    local valid
    valid, entry.take, entry.of = parse_mode(mode)
    entry.mode = mode
    local granted = (is_free or holder and holder.count) and lock.joint().join(holder, attempt, entry)
    if granted then return granted end
  end
  if waits ~= '1' then return lock.busy_reply('busy', holder) end
  return lock.append(attempt, entry, holder)
end

for _, item in ipairs(remaining) do
  answers[item] = catch_error(function() return enqueue(5 * item, 3 * item) end)
end
return answers
