-- Shows holders and how many wait, for a listing. For each lock three KEYS: holder, queue, entries.
local answers = {}
for index = 1, #KEYS, 3 do
  answers[#answers + 1] = guarded(function()
    local holder = read_holder(KEYS[index])
    local shown, ms = show(KEYS[index], holder)
    local waiters = ask('ZCARD', KEYS[index + 1])
    -- Of a long queue, those that have lapsed are counted too.
    if waiters > 0 and waiters <= CHUNK then
      waiters = 0
      for _, raw in ipairs(ask('HVALS', KEYS[index + 2])) do
        if not lapsed(read_entry(KEYS[index + 2], raw)) then waiters = waiters + 1 end
      end
    end
    return {stamp, shown, ms, waiters}
  end)
end
return answers
