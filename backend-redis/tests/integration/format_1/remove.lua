-- The remove script of the last version without modes, as it sent it to the server.
local INBOX_PREFIX = 'tenure:inbox:'
local LAST_TOKEN_TTL_MS = '86400000'
local FOREIGN_RECHECK_US = 200000
-- The arguments of `remove`: one for all items (for how long the attempts are fenced off, the token
-- floor, and '1' while grants are blocked), and for each item an attempt in ARGV and five KEYS.
local fence_us, floor, grants_blocked = string.match(ARGV[1], '^(%d+) (%d+) (%d)$')
local answers, remaining = {}, nil
-- Removes holders that no waiter follows. This is the common case; it takes few commands and
-- defines no function. It needs no clock: if the grant has lapsed and no script has ended it since,
-- nobody else was granted the lock.
for item = 1, #ARGV - 1 do
  local key_index = 5 * (item - 1)
  if fence_us == '0' and redis.call('EXISTS', KEYS[key_index + 3]) == 0 then
    local record = redis.pcall('GET', KEYS[key_index + 1])
    if type(record) == 'string' and string.find(record, 'tenure/1 ' .. ARGV[item + 1] .. ' ', 1, true) == 1 then
      redis.call('DEL', KEYS[key_index + 1])
      answers[item] = 'holder'
    end
  end
  if not answers[item] then
    remaining = remaining or {}
    remaining[#remaining + 1] = item
  end
end
if not remaining then return answers end
-- The server's clock: microseconds since 1970, as 16 digits of text.
local clock = redis.call('TIME')
local stamp = clock[2]
if #stamp < 6 then stamp = string.sub('00000' .. stamp, -6) end
stamp = clock[1] .. stamp
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
-- COMMON
-- Removes an attempt, whether it holds or waits. Fences it off for `fence_us` microseconds unless
-- that is 0.
local function remove(key_index, attempt)
  local lock = lock(KEYS[key_index + 1], KEYS[key_index + 2], KEYS[key_index + 3], KEYS[key_index + 4])
  local blocked = grants_blocked == '1'
  local holder = lock.expire_lapsed(blocked)
  local removed_as = 'absent'
  if holder and holder.attempt == attempt then
    removed_as = 'holder'
    lock.promote_next(holder, nil, blocked)
  elseif lock.remove_waiter(attempt) then
    removed_as = 'waiter'
  end
  -- This comes last: a full server refuses it unless something was deleted before.
  if fence_us ~= '0' then
    redis.call('SET', KEYS[key_index + 5], 'tenure/1 ' .. stamp .. ' ' .. fence_us, 'PX', math.ceil(fence_us / 1000))
  end
  return removed_as
end

for _, item in ipairs(remaining) do
  answers[item] = catch_error(function() return remove(5 * (item - 1), ARGV[item + 1]) end)
end
return answers
