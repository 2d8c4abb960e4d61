-- Takes an attempt out, whether it holds or waits; fences it off for so many microseconds, if any.
return guarded(function()
  local lock = lock(HOLDER, FENCE, QUEUE, ENTRIES)
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
    redis.call('SET', FENCED, 'tenure/1 ' .. stamp .. ' ' .. fence, 'PX', math.ceil(fence / 1000))
  end
  return was
end)
