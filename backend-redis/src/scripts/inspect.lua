-- Shows a lock and a part of its queue. Changes nothing. KEYS: holder, queue, entries; ARGV: the
-- position after which to start, '-inf' for the first part, and the number of joint holders and
-- waiters.
return catch_error(function()
  local holder = read_holder(KEYS[1])
  local display, foreign_ttl = display_holder(KEYS[1], holder)
  local from = ARGV[1] == '-inf' and text(FIRST_GRANT_SCORE) or '(' .. ARGV[1]
  local found = checked_call('ZRANGE', KEYS[2], from, '+inf', 'BYSCORE', 'LIMIT', 0, ARGV[2], 'WITHSCORES')
  if holder and holder.count and ARGV[1] == '-inf' and string.sub(found[1] or '', 1, 1) ~= 'g' then
    malformed(KEYS[2])
  end
  local members = {}
  for index = 1, #found, 2 do members[#members + 1] = found[index] end
  local holders, waiters = live_members(KEYS[3], members, holder)
  local last = #members < tonumber(ARGV[2]) and '' or found[#found]
  return {stamp, display, foreign_ttl, last, waiters, holders}
end)
