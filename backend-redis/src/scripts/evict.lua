-- Takes away the grant with this token, and no other.
local token = ARGV[1]
return guarded(function()
  local lock = lock(KEYS[1], KEYS[2], KEYS[3], KEYS[4])
  local holder = lock.settle()
  if holder and not holder.foreign and holder.token == token then
    lock.pass_on(holder, 'evicted')
    return {'evicted'}
  end
  return lock.busy('not held', holder)
end)
