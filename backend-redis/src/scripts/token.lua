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

-- Stores the last token. The record expires a day after the last grant; by then the clock alone
-- keeps tokens rising. If the token is ahead of the clock (the clock was set back, or a floor was
-- removed), the record expires a day after the clock has caught up.
local function write_last_token(key, token, ended_grant)
  local ttl_ms = LAST_TOKEN_TTL_MS
  if token ~= min_token and greater_token(token, min_token) == token then
    ttl_ms = string.format('%.0f', ttl_ms + (tonumber(token) - tonumber(min_token)) / 1000)
  end
  redis.call('SET', key, 'tenure/1 ' .. token .. ended_grant, 'PX', ttl_ms)
end
