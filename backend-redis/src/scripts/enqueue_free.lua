-- A lock that nobody holds, waits for or has fenced off: the common case, in few calls.
local HOLDER, FENCE, QUEUE, ENTRIES, FENCED = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local attempt, whose, life, wait, floor = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
if not redis.pcall('GET', HOLDER) and redis.call('EXISTS', QUEUE, FENCED) == 0 then
  -- What is malformed or of another type is an error that below names the key.
  local fence = redis.pcall('GET', FENCE)
  local last, ended = '0', ''
  if fence then last, ended = string.match(type(fence) == 'string' and fence or '', '^tenure/1 (%d+)(.*)$') end
  if is_token(last) then
    local least = least(floor)
    local token = next_token(last, least)
    redis.call('SET', HOLDER, 'tenure/1 ' .. attempt .. ' ' .. stamp .. ' ' .. token .. ' ' .. whose .. ' ' .. stamp
      .. ' ' .. stamp, 'PX', life)
    write_fence(FENCE, token, ended, last, least)
    return token
  end
end
