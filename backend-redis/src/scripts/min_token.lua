-- The least that a token may be now: what the server's clock says, above the floor. It rises by
-- itself, and so keeps tokens rising when everything else is forgotten. Tokens are decimal texts: a
-- floor may lift them above what a double holds exactly.
local min_token = stamp
if floor ~= '0' then
  -- The last nine digits of each, and what is before them.
  local low = tonumber(string.sub(floor, -9)) + tonumber(string.sub(stamp, -9))
  local high = (tonumber(string.sub(floor, 1, -10)) or 0) + (tonumber(string.sub(stamp, 1, -10)) or 0)
  if low >= 1000000000 then low, high = low - 1000000000, high + 1 end
  min_token = high > 0 and string.format('%.0f%09.0f', high, low) or string.format('%.0f', low)
end
