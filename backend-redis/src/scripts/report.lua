-- Handles the reports of waiters, and grants that the renew script did not find. ARGV has the token
-- floor and then an attempt for each entry; each entry has four KEYS. An entry that fails does not
-- fail the others.
local answers = {}
for index = 1, #ARGV - 1 do
  local key_index = 4 * index - 3
  answers[index] = catch_error(function()
    local lock = lock(KEYS[key_index], KEYS[key_index + 1], KEYS[key_index + 2], KEYS[key_index + 3])
    return lock.renew_or_report(ARGV[index + 1], lock.expire_lapsed())
  end)
end
return answers
