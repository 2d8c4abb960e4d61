-- The enqueue script of the last version without modes, as it sent it to the server.
local INBOX_PREFIX = 'tenure:inbox:'
local LAST_TOKEN_TTL_MS = '86400000'
local FOREIGN_RECHECK_US = 200000
-- The arguments of `enqueue`: one for all items (the token floor, and '1' if the attempts wait), and
-- for each item five KEYS and three ARGV (the attempt; TTL CLIENT OWNER as in a record; the TTL in
-- milliseconds).
local floor, waits = string.match(ARGV[1], '^(%d+) (%d)$')
local answers, remaining = {}, nil
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
-- Handles locks that nobody holds, waits for or has fenced off, and whose last token is behind the
-- clock. This is the common case; it takes few commands and defines no function.
for item = 1, #KEYS / 5 do
  local key_index, arg_index = 5 * item, 3 * item
  if redis.call('EXISTS', KEYS[key_index - 4], KEYS[key_index - 2], KEYS[key_index]) == 0 then
    local LAST_TOKEN = KEYS[key_index - 3]
    local previous = redis.pcall('GET', LAST_TOKEN)
    local is_below_min, ended_grant = not previous, ''
    if type(previous) == 'string' then
      local last, ended = string.match(previous, '^tenure/1 ([1-9]%d*)(.*)$')
      -- Texts of equal length compare as the numbers would.
      is_below_min = last and #last == #min_token and last < min_token
        and (ended == '' or string.find(ended, '^ %x+ %l+$'))
      ended_grant = ended
    end
    -- A server that refuses the write reports the error to the code below.
    if is_below_min and redis.pcall('SET', LAST_TOKEN, 'tenure/1 ' .. min_token .. ended_grant, 'PX', LAST_TOKEN_TTL_MS).ok then
      redis.call('SET', KEYS[key_index - 4], 'tenure/1 ' .. ARGV[arg_index - 1] .. ' ' .. stamp .. ' ' .. min_token .. ' '
        .. ARGV[arg_index] .. ' ' .. stamp .. ' ' .. stamp, 'PX', ARGV[arg_index + 1])
      answers[item] = min_token
    end
  end
  if not answers[item] then
    remaining = remaining or {}
    remaining[#remaining + 1] = item
  end
end
if not remaining then return answers end
-- COMMON
local function enqueue(key_index, arg_index)
  local HOLDER, QUEUE, FENCE = KEYS[key_index - 4], KEYS[key_index - 2], KEYS[key_index]
  local attempt, attempt_fields = ARGV[arg_index - 1], ARGV[arg_index]
  local lock = lock(HOLDER, KEYS[key_index - 3], QUEUE, KEYS[key_index - 1])
  local ttl, client, owner = string.match(attempt_fields, '^(%d+) (%x+) (%S+)$')
  ttl = tonumber(ttl)
  local holder = lock.expire_lapsed()
  local fence = checked_call('GET', FENCE)
  if fence then
    local since, fence_ttl = string.match(fence, '^tenure/1 (%d+) (%d+)$')
    if not since then malformed(FENCE, fence) end
    if now < since + fence_ttl then return {'gone', 'evicted'} end
  end
  if (holder and holder.attempt == attempt) or lock.find_waiter(attempt) then
    return lock.renew_or_report(attempt, holder)
  end
  if not holder and redis.call('EXISTS', QUEUE) == 0 then
    return lock.grant(attempt, ttl, client, owner)
  end
  if waits ~= '1' then return lock.busy_reply('busy', holder) end
  return lock.append(attempt, ttl, client, owner, holder)
end

for _, item in ipairs(remaining) do
  answers[item] = catch_error(function() return enqueue(5 * item, 3 * item) end)
end
return answers
