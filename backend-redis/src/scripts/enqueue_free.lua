-- Locks that nobody holds, waits for or has fenced off, and whose last token is behind the clock: the
-- common case, in few calls and without a function.
local note = 'tenure/1 ' .. least
for item = 1, #KEYS / 5 do
  local key, word = 5 * item, 3 * item
  if redis.call('EXISTS', KEYS[key - 4], KEYS[key - 2], KEYS[key]) == 0 then
    local FENCE = KEYS[key - 3]
    -- Reads the note and writes it, since each call costs.
    local was = redis.pcall('SET', FENCE, note, 'KEEPTTL', 'GET')
    -- Texts of the same length are compared as numbers would be.
    local rises = not was or type(was) == 'string' and #was == #note and was < note
      and string.find(was, '^tenure/1 [1-9]%d*$')
    if not rises and type(was) == 'string' then
      -- How the last grant ended stays known.
      local last, ended = string.match(was, '^tenure/1 ([1-9]%d*)( %x+ %l+)$')
      rises = last and #last == #least and last < least
      -- What is malformed is an error that below names the key.
      redis.call('SET', FENCE, rises and note .. ended or was, 'KEEPTTL')
    end
    if rises then
      -- The digits of 10,000 and 1,000 seconds: they are the same again after longer than a note lives.
      local ten, one = string.byte(note, -11, -10)
      local had_ten, had_one
      if was then had_ten, had_one = string.byte(was, #note - 10, #note - 9) end
      if one ~= had_one or ten ~= had_ten then redis.call('PEXPIRE', FENCE, LAST_TOKEN_TTL_MS) end
      redis.call('SET', KEYS[key - 4], 'tenure/1 ' .. ARGV[word - 1] .. ' ' .. stamp .. ' ' .. least .. ' '
        .. ARGV[word] .. ' ' .. stamp .. ' ' .. stamp, 'PX', ARGV[word + 1])
      answers[item] = least
    end
  end
  if not answers[item] then
    rest = rest or {}
    rest[#rest + 1] = item
  end
end
if not rest then return answers end
