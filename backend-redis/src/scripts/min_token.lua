-- The smallest token that may be granted now: the server's clock added to the token floor. The
-- clock advances on its own, so tokens keep rising even if all other state is lost. Tokens are
-- decimal texts, because a floor may lift them above what a double represents exactly.
local min_token = stamp
if floor ~= '0' then
  -- The last nine digits of each number, and the digits before them.
  local low = tonumber(string.sub(floor, -9)) + tonumber(string.sub(stamp, -9))
  local high = (tonumber(string.sub(floor, 1, -10)) or 0) + (tonumber(string.sub(stamp, 1, -10)) or 0)
  if low >= 1000000000 then low, high = low - 1000000000, high + 1 end
  min_token = high > 0 and string.format('%.0f%09.0f', high, low) or string.format('%.0f', low)
end
