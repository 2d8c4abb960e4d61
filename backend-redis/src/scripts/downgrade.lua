-- Turns an exclusive grant into a shared one, in one step. ARGV: the attempt, the token of its
-- grant, the token floor, and '1' while grants are blocked.
return catch_error(function()
  local lock = lock(KEYS[1], KEYS[2], KEYS[3], KEYS[4])
  local blocked = ARGV[4] == '1'
  local reason = lock.joint().downgrade(lock.expire_lapsed(blocked), ARGV[1], ARGV[2], blocked)
  return reason and {'gone', reason} or {'shared'}
end)
