-- Shows a lock and a part of its queue. Changes nothing. KEYS: holder, queue, entries; ARGV: the
-- position after which to start, the number of waiters.
return catch_error(function()
  local holder = read_holder(KEYS[1])
  local display, foreign_ttl = display_holder(KEYS[1], holder)
  local attempts = checked_call('ZRANGE', KEYS[2], '(' .. ARGV[1], '+inf', 'BYSCORE', 'LIMIT', 0, ARGV[2], 'WITHSCORES')
  local waiters, last = {}, ''
  for index = 1, #attempts, 2 do
    local raw = checked_call('HGET', KEYS[3], attempts[index])
    if raw then
      local entry = read_entry(KEYS[3], raw)
      if not lapsed(entry) then
        waiters[#waiters + 1] = {attempts[index], entry.enqueued, entry.owner}
      end
    end
    last = attempts[index + 1]
  end
  if #attempts < 2 * ARGV[2] then last = '' end
  return {stamp, display, foreign_ttl, last, waiters}
end)
