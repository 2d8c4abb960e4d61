-- Handles exclusive attempts for locks that nobody holds, waits for or has fenced off, and whose last token is behind the
-- clock. This is the common case; it takes few commands and defines no function.
for item = 1, #KEYS / 5 do
  local key_index, arg_index = 5 * item, 3 * item
  local ttl_ms = ARGV[arg_index + 1]
  if ttl_ms ~= '' and redis.call('EXISTS', KEYS[key_index - 4], KEYS[key_index - 2], KEYS[key_index]) == 0 then
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
        .. ARGV[arg_index] .. ' ' .. stamp .. ' ' .. stamp, 'PX', ttl_ms)
      answers[item] = min_token
    end
  end
  if not answers[item] then
    remaining = remaining or {}
    remaining[#remaining + 1] = item
  end
end
if not remaining then return answers end
