-- Renews the grants of joint holders. Each lock has three KEYS: holder, queue, entries; ARGV has for
-- each grant the number of its lock, the attempt and the token. Like `renew`, it returns 1 for each
-- renewed grant and 0 for a grant that the `report` script has to handle. A grant that is being
-- downgraded may still be exclusive.
local answers, locks = {}, {}

local function read_lock(number)
  local HOLDER = KEYS[3 * number - 2]
  local record = redis.pcall('GET', HOLDER)
  record = type(record) == 'string' and record or ''
  local head, latest = string.match(record, '^(tenure/2 %S+ %d+) (%d+)$')
  return {record = record, head = head, latest = latest, ttl_ms = 0}
end

-- Restarts the TTL of the lock's keys. A full server allows PEXPIRE, and after the first write it
-- allows the others.
local function extend(lock, number, ttl_ms)
  if lock.ttl_ms >= ttl_ms then return end
  lock.ttl_ms = ttl_ms
  local HOLDER, QUEUE, ENTRIES = KEYS[3 * number - 2], KEYS[3 * number - 1], KEYS[3 * number]
  local current = redis.call('PTTL', ENTRIES)
  if current < ttl_ms then current = 2 * ttl_ms end
  redis.pcall('PEXPIRE', QUEUE, current)
  redis.pcall('PEXPIRE', ENTRIES, current)
  local latest = tonumber(lock.latest) > now and lock.latest or stamp
  redis.pcall('SET', HOLDER, lock.head .. ' ' .. latest, 'PX', math.max(redis.call('PTTL', HOLDER), ttl_ms))
end

local function renew(lock, number, attempt, token)
  local QUEUE, ENTRIES = KEYS[3 * number - 1], KEYS[3 * number]
  local entry = redis.pcall('HGET', ENTRIES, attempt)
  if type(entry) ~= 'string' then return 0 end
  local refreshed, ttl, suffix, granted_token = string.match(entry, '^tenure/2 (%d+) (%d+)( %x+ %d+ %d+ %S+ %S+ (%d+) %d+)$')
  if granted_token ~= token or #refreshed > 16 or #ttl > 16 or now >= refreshed + ttl
    or type(redis.pcall('ZRANK', QUEUE, attempt)) ~= 'number' then
    return 0
  end
  extend(lock, number, math.ceil(ttl / 1000))
  local written = redis.pcall('HSET', ENTRIES, attempt, 'tenure/2 ' .. stamp .. ' ' .. ttl .. suffix)
  local scored = redis.pcall('ZADD', QUEUE, string.format('%.0f', now + ttl - EXPIRY_OFFSET), attempt)
  -- A record that cannot be written must not fail the others.
  return type(written) == 'number' and type(scored) == 'number' and 1 or 0
end

local function renew_exclusive(lock, number, attempt, token)
  local found, refreshed, granted_token, ttl, suffix = string.match(lock.record, '^tenure/1 (%x+) (%d+) (%d+) (%d+)( .+)$')
  if found ~= attempt or granted_token ~= token or #refreshed > 16 or #ttl > 16 or now >= refreshed + ttl then return 0 end
  local HOLDER, ttl_ms = KEYS[3 * number - 2], math.ceil(ttl / 1000)
  redis.pcall('PEXPIRE', HOLDER, ttl_ms)
  local record = 'tenure/1 ' .. attempt .. ' ' .. stamp .. ' ' .. token .. ' ' .. ttl .. suffix
  return redis.pcall('SET', HOLDER, record, 'PX', ttl_ms).ok and 1 or 0
end

for index = 1, #ARGV / 3 do
  local number, attempt, token = tonumber(ARGV[3 * index - 2]), ARGV[3 * index - 1], ARGV[3 * index]
  locks[number] = locks[number] or read_lock(number)
  local lock = locks[number]
  answers[index] = (lock.head and renew or renew_exclusive)(lock, number, attempt, token)
end
return answers
