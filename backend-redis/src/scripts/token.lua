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

-- Notes the last token. The note expires a day after the last grant, or up to 1,000 s sooner, since
-- setting an expiry anew costs; by then the clock alone keeps tokens rising. It never expires while
-- tokens are ahead of the clock: a floor has lifted them, or the clock was set back.
-- `noted` is the token that the note has had so far, '0' if there was none.
local function write_fence(key, token, ended, noted)
  local note = 'tenure/1 ' .. token .. ended
  if token ~= stamp and later(token, stamp) == token then
    redis.call('SET', key, note)
  elseif string.sub(noted, 1, -10) == string.sub(token, 1, -10) then
    redis.call('SET', key, note, 'KEEPTTL')
  else
    redis.call('SET', key, note, 'PX', FENCE_LIFE)
  end
end
