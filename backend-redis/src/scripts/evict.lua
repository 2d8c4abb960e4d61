-- Removes the grant with this token and no other.
local token, grants_blocked = ARGV[1], ARGV[3] == '1'
return catch_error(function()
  local lock = lock(KEYS[1], KEYS[2], KEYS[3], KEYS[4])
  local holder = lock.expire_lapsed(grants_blocked)
  if holder and not holder.foreign and holder.token == token then
    lock.promote_next(holder, 'evicted', grants_blocked)
    return {'evicted'}
  end
  local grant = holder and holder.count and lock.joint().find_grant(holder, token)
  if grant then
    lock.joint().advance(holder, {grant}, 'evicted', grants_blocked)
    return {'evicted'}
  end
  return lock.busy_reply('not held', holder)
end)
