-- The greater of two tokens. They are decimal texts, since a floor may lift them above what a double
-- holds exactly.
local function later(one, other)
  if #one ~= #other then return #one > #other and one or other end
  return one > other and one or other
end

-- One more than the last token, but no less than the floor, nor than the server's clock: it keeps
-- tokens rising when everything else is forgotten.
local function next_token(last, floor)
  if later(stamp, last) ~= last then return later(stamp, floor) end
  local head, nines = string.match(last, '^(%d-)(9*)$')
  local zeros = string.rep('0', #nines)
  if head == '' then return later('1' .. zeros, floor) end
  local after = string.sub(head, 1, -2) .. string.char(string.byte(head, -1) + 1) .. zeros
  return later(after, floor)
end
