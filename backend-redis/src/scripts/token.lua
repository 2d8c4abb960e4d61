-- Token arithmetic for locks with waiters and for tokens that are ahead of the clock.

local function is_token(digits)
  return digits and (#digits < 19 or #digits == 19 and digits <= '4611686018427387903')
    and (digits == '0' or string.find(digits, '^[1-9]'))
end

-- The greater of two tokens.
local function greater_token(one, other)
  if #one ~= #other then return #one > #other and one or other end
  return one > other and one or other
end

-- The last token plus one, but at least `min_token`.
local function next_token(last_token)
  if greater_token(min_token, last_token) ~= last_token then return min_token end
  local prefix, nines = string.match(last_token, '^(%d-)(9*)$')
  local zeros = string.rep('0', #nines)
  if prefix == '' then return '1' .. zeros end
  return string.sub(prefix, 1, -2) .. string.char(string.byte(prefix, -1) + 1) .. zeros
end

-- Stores the last token. The record expires a day after the last grant, or up to 1,000 s earlier
-- because renewing the expiry costs time; by then the clock alone keeps tokens rising. If the token
-- is ahead of the clock (the clock was set back, or a floor was removed), the record expires a day
-- after the clock has caught up. `previous` is the token in the existing record, '0' if there is
-- none.
local function write_last_token(key, token, ended_grant, previous)
  local record = 'tenure/1 ' .. token .. ended_grant
  if token ~= min_token and greater_token(token, min_token) == token then
    local ahead = (tonumber(token) - tonumber(min_token)) / 1000
    redis.call('SET', key, record, 'PX', string.format('%.0f', LAST_TOKEN_TTL_MS + ahead))
  elseif string.sub(previous, 1, -10) == string.sub(token, 1, -10) then
    redis.call('SET', key, record, 'KEEPTTL')
  else
    redis.call('SET', key, record, 'PX', LAST_TOKEN_TTL_MS)
  end
end
