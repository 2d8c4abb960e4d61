-- Handles locks that nobody holds, waits for or has fenced off, and whose last token is behind the
-- clock. This is the common case; it takes few commands and defines no function.
local record = 'tenure/1 ' .. min_token
for item = 1, #KEYS / 5 do
  local key_index, arg_index = 5 * item, 3 * item
  if redis.call('EXISTS', KEYS[key_index - 4], KEYS[key_index - 2], KEYS[key_index]) == 0 then
    local LAST_TOKEN = KEYS[key_index - 3]
    -- One command reads and replaces the record, because each command costs time.
    local previous = redis.pcall('SET', LAST_TOKEN, record, 'KEEPTTL', 'GET')
    -- Texts of equal length compare as the numbers would.
    local is_below_min = not previous or type(previous) == 'string' and #previous == #record and previous < record
      and string.find(previous, '^tenure/1 [1-9]%d*$')
    if not is_below_min and type(previous) == 'string' then
      -- Keeps how the last grant ended.
      local last, ended_grant = string.match(previous, '^tenure/1 ([1-9]%d*)( %x+ %l+)$')
      is_below_min = last and #last == #min_token and last < min_token
      -- A malformed record is restored here; the code below reports it as an error that names the
      -- key.
      redis.call('SET', LAST_TOKEN, is_below_min and record .. ended_grant or previous, 'KEEPTTL')
    end
    if is_below_min then
      -- The digits of 10,000 s and 1,000 s. They repeat only after a time longer than the record's
      -- TTL.
      local ten, one = string.byte(record, -11, -10)
      local previous_ten, previous_one
      if previous then previous_ten, previous_one = string.byte(previous, #record - 10, #record - 9) end
      if one ~= previous_one or ten ~= previous_ten then redis.call('PEXPIRE', LAST_TOKEN, LAST_TOKEN_TTL_MS) end
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
