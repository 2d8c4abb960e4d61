-- Shows the holders and the numbers of waiters for a listing. Each lock has three KEYS: holder,
-- queue, entries.
local answers = {}
for index = 1, #KEYS, 3 do
  answers[#answers + 1] = catch_error(function()
    local holder = read_holder(KEYS[index])
    local display, foreign_ttl = display_holder(KEYS[index], holder)
    local waiters = checked_call('ZCARD', KEYS[index + 1])
    -- For a longer queue, the number includes lapsed waiters.
    if waiters > 0 and waiters <= CHUNK_SIZE then
      waiters = 0
      for _, raw in ipairs(checked_call('HVALS', KEYS[index + 2])) do
        if not lapsed(read_entry(KEYS[index + 2], raw)) then waiters = waiters + 1 end
      end
    end
    return {stamp, display, foreign_ttl, waiters}
  end)
end
return answers
