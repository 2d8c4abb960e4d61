-- Shows the holders and the numbers of waiters for a listing. Each lock has three KEYS: holder,
-- queue, entries.
local answers = {}
for index = 1, #KEYS, 3 do
  answers[#answers + 1] = catch_error(function()
    local holder = read_holder(KEYS[index])
    local display, foreign_ttl = display_holder(KEYS[index], holder)
    local holders = holder and holder.count or 0
    local waiters = checked_call('ZCARD', KEYS[index + 1]) - 2 * holders
    -- For a longer queue, the numbers include lapsed entries.
    if holders > 0 then
      local is_short = holders + waiters <= CHUNK_SIZE
      local members = checked_call('ZRANGE', KEYS[index + 1], holders, is_short and -1 or holders)
      local live_holders, live_waiters = live_members(KEYS[index + 2], members, holder)
      if is_short then holders, waiters = #live_holders, #live_waiters end
      display = live_holders[1] or ''
    elseif waiters > 0 and waiters <= CHUNK_SIZE then
      waiters = 0
      for _, raw in ipairs(checked_call('HVALS', KEYS[index + 2])) do
        local entry = read_entry(KEYS[index + 2], raw)
        if not entry.token and not lapsed(entry) then waiters = waiters + 1 end
      end
    end
    return {stamp, display, foreign_ttl, waiters, holders}
  end)
end
return answers
