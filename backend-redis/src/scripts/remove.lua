-- Takes an attempt out, whether it holds or waits; fences it off for so many microseconds, if any.
local HOLDER, FENCE, QUEUE, ENTRIES, FENCED = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local attempt, fence, floor = ARGV[1], tonumber(ARGV[2]), ARGV[3]
return guarded(function()
  local lock = lock(HOLDER, FENCE, QUEUE, ENTRIES)
  local holder = lock.settle(floor)
  local was = 'absent'
  if holder and holder.attempt == attempt then
    was = 'holder'
    lock.pass_on(holder, nil, floor)
  elseif lock.drop(attempt) then
    was = 'waiter'
  end
  -- Last: a full server refuses it, unless something was deleted before.
  if fence > 0 then
    redis.call('SET', FENCED, 'tenure/1 ' .. text(now) .. ' ' .. text(fence), 'PX', math.ceil(fence / 1000))
  end
  return {was}
end)
