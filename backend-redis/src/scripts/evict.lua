-- Takes away the grant with this token, and no other.
local token, floor = ARGV[1], ARGV[2]
return guarded(function()
  local lock = lock(KEYS[1], KEYS[2], KEYS[3], KEYS[4])
  local holder = lock.settle(floor)
  if holder and not holder.foreign and holder.token == token then
    lock.pass_on(holder, 'evicted', floor)
    return {'evicted'}
  end
  return lock.busy('not held', holder)
end)
