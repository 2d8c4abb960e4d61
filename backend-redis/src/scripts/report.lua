-- Waiters report, and grants are renewed of which more has to be known: for each entry four KEYS and
-- an attempt in ARGV, after the token floor. One that fails does not fail the others.
local answers = {}
for index = 1, #ARGV - 1 do
  local key = 4 * index - 3
  answers[index] = guarded(function()
    local lock = lock(KEYS[key], KEYS[key + 1], KEYS[key + 2], KEYS[key + 3])
    return lock.report(ARGV[index + 1], lock.settle())
  end)
end
return answers
