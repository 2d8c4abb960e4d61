-- Takes an attempt out, whether it holds or waits; fences it off for so many microseconds, if any.
local function remove(key, attempt)
  local lock = lock(KEYS[key + 1], KEYS[key + 2], KEYS[key + 3], KEYS[key + 4])
  local holder = lock.settle(closed == '1')
  local was = 'absent'
  if holder and holder.attempt == attempt then
    was = 'holder'
    lock.pass_on(holder)
  elseif lock.drop(attempt) then
    was = 'waiter'
  end
  -- Last: a full server refuses it, unless something was deleted before.
  if fence ~= '0' then
    redis.call('SET', KEYS[key + 5], 'tenure/1 ' .. stamp .. ' ' .. fence, 'PX', math.ceil(fence / 1000))
  end
  return was
end

for _, item in ipairs(rest) do
  answers[item] = guarded(function() return remove(count * (item - 1), ARGV[item + 1]) end)
end
return answers
