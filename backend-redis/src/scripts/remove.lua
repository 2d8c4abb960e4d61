-- Removes an attempt, whether it holds or waits. Fences it off for `fence_us` microseconds unless
-- that is 0.
local function remove(key_index, attempt)
  local lock = lock(KEYS[key_index + 1], KEYS[key_index + 2], KEYS[key_index + 3], KEYS[key_index + 4])
  local blocked = grants_blocked == '1'
  local holder = lock.expire_lapsed(blocked)
  local removed_as = 'absent'
  if holder and holder.attempt == attempt then
    removed_as = 'holder'
    lock.promote_next(holder, nil, blocked)
  elseif holder and holder.count then
    removed_as = lock.joint().remove(holder, attempt, blocked)
  elseif lock.remove_waiter(attempt) then
    removed_as = 'waiter'
  end
  -- This comes last: a full server refuses it unless something was deleted before.
  if fence_us ~= '0' then
    redis.call('SET', KEYS[key_index + 5], 'tenure/1 ' .. stamp .. ' ' .. fence_us, 'PX', math.ceil(fence_us / 1000))
  end
  return removed_as
end

for _, item in ipairs(remaining) do
  answers[item] = catch_error(function() return remove(5 * (item - 1), ARGV[item + 1]) end)
end
return answers
