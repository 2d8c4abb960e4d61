-- The records of one lock and how they are read:
--
--   HOLDER      string      tenure/1 ATTEMPT REFRESHED TOKEN TTL CLIENT OWNER ENQUEUED GRANTED
--                           of an exclusive holder; tenure/2 MODE COUNT LATEST for joint holders
--   LAST_TOKEN  string      tenure/1 TOKEN [ATTEMPT evicted|expired]
--   QUEUE       sorted set  the waiting attempts by position; before them, the joint holders
--   ENTRIES     hash        ATTEMPT -> tenure/1 REFRESHED TTL CLIENT ENQUEUED AS-OF OWNER of an
--                           exclusive waiter; tenure/2 (the same fields) MODE [TOKEN GRANTED]
--   FENCE       string      tenure/1 SINCE TTL, one key for each attempt that is fenced off
--
-- All times are in microseconds. A key never expires before its record has lapsed; the record
-- decides.
--
-- Joint holders are those that are not exclusive. MODE is `shared`, or TAKEN/TOTAL permits. COUNT is
-- their number, and none of them was refreshed after LATEST. QUEUE has each of them twice: the
-- attempt by its expiry less EXPIRY_OFFSET, and `g` with the attempt in the order of the grants.
-- These scores are negative, and positions are positive. So with n holders, the ranks from 0 are the
-- holders by expiry, those from n the holders by grant, and those from 2n the waiters.

-- Bounds of the entries that one run reads or deletes. While a script runs, the server serves
-- nobody else.
local CHUNK_SIZE, MAX_CHUNKS = 64, 8
local MAX_ENTRIES = CHUNK_SIZE * MAX_CHUNKS

local function text(number)
  return string.format('%.0f', number)
end

-- Ends the script with an error whose first word identifies it to Rust and which names the key.
local function malformed(key, value)
  local version = type(value) == 'string' and string.match(value, '^tenure/(%d+) ')
  if version and tonumber(version) > 2 then
    error({err = 'TENURE_NEWER ' .. version .. ' ' .. key})
  end
  error({err = 'TENURE_CORRUPT ' .. key})
end

local function error_of(reply)
  return type(reply) == 'table' and reply.err
end

-- Like `redis.call`, but an error names the key.
local function checked_call(command, key, ...)
  local reply = redis.pcall(command, key, ...)
  if error_of(reply) then
    if string.find(reply.err, 'WRONGTYPE', 1, true) then
      error({err = 'TENURE_CORRUPT ' .. key})
    end
    error({err = reply.err})
  end
  return reply
end

local function number(digits)
  local value = tonumber(digits)
  -- From this value on, a double cannot represent every integer.
  if value and value < 9007199254740992 then return value end
end

-- Returns whether the text is a mode that is not exclusive, and for permits, how many of how many.
local function parse_mode(mode)
  if mode == 'shared' then return true end
  local take, of = string.match(mode or '', '^([1-9]%d*)/([1-9]%d*)$')
  take, of = number(take), number(of)
  return take and of and take <= of and of <= 4294967295, take, of
end

local function read_joint_holders(key, raw)
  local mode, count, latest = string.match(raw, '^tenure/2 (%S+) ([1-9]%d*) (%d+)$')
  local valid, taken, of = parse_mode(mode)
  count, latest = number(count), number(latest)
  if not (valid and count and latest) then malformed(key, raw) end
  return {raw = raw, count = count, latest = latest, taken = taken or 0, of = of}
end

local function read_holder(key)
  local raw = checked_call('GET', key)
  if not raw then return nil end
  if string.sub(raw, 1, 7) ~= 'tenure/' then return {raw = raw, foreign = true} end
  -- A valid record never reaches this length. The record is sent with every reply.
  if #raw > 4096 then malformed(key, raw) end
  local attempt, refreshed, token, ttl, client, owner, timestamps =
    string.match(raw, '^tenure/1 (%x+) (%d+) (%d+) (%d+) (%x+) (%S+) (%d+ %d+)$')
  if not attempt then return read_joint_holders(key, raw) end
  refreshed, ttl = number(refreshed), number(ttl)
  if not (is_token(token) and refreshed and ttl and #attempt == 32 and #client == 32) then
    malformed(key, raw)
  end
  return {
    raw = raw, attempt = attempt, client = client, owner = owner, ttl = ttl, token = token,
    refreshed = refreshed, timestamps = timestamps,
  }
end

-- An entry that is not exclusive. It has a token if it holds the lock.
local function read_joint_entry(key, raw)
  local refreshed, ttl, client, enqueued, as_of, owner, mode, grant =
    string.match(raw, '^tenure/2 (%d+) (%d+) (%x+) (%d+) (%d+) (%S+) (%S+)(.*)$')
  local token, granted = string.match(grant or '', '^ (%d+) (%d+)$')
  local valid, take, of = parse_mode(mode)
  refreshed, ttl, as_of = number(refreshed), number(ttl), number(as_of)
  if not (valid and refreshed and ttl and as_of and (grant == '' or is_token(token)))
    or refreshed + ttl >= EXPIRY_OFFSET + FIRST_GRANT_SCORE then
    malformed(key, raw)
  end
  return {
    refreshed = refreshed, ttl = ttl, client = client, enqueued = enqueued, as_of = as_of, owner = owner,
    mode = mode, take = take, of = of, token = token, granted = granted,
  }
end

local function read_entry(key, raw)
  local refreshed, ttl, client, enqueued, as_of, owner =
    string.match(raw, '^tenure/1 (%d+) (%d+) (%x+) (%d+) (%d+) (%S+)$')
  if not refreshed then return read_joint_entry(key, raw) end
  refreshed, ttl, as_of = number(refreshed), number(ttl), number(as_of)
  if not (refreshed and ttl and as_of) then malformed(key, raw) end
  return {refreshed = refreshed, ttl = ttl, client = client, enqueued = enqueued, as_of = as_of, owner = owner}
end

local function lapsed(entry)
  return now >= entry.refreshed + entry.ttl
end

local function time_left(entry)
  return math.max(entry.refreshed + entry.ttl - now, 0)
end

-- How a reply shows a joint holder: as the record of a holder, with its mode.
local function joint_holder_record(attempt, entry)
  return table.concat({'tenure/2', attempt, text(entry.refreshed), entry.token, text(entry.ttl), entry.client,
    entry.owner, entry.enqueued, entry.granted, entry.mode}, ' ')
end

-- How a reply shows a holder: its record, or, for a foreign holder, whose value may have any size,
-- only the remaining time. Joint holders are shown by others.
local function display_holder(key, holder)
  if not holder or holder.count then return '', -1 end
  if holder.foreign then return 'foreign', redis.call('PTTL', key) end
  return holder.raw, -1
end

-- Runs a function and returns an error that it raised as the script's error. Servers from 7.0 on
-- convert an error to text before `pcall` returns it.
local function catch_error(run)
  local ok, result = pcall(run)
  if ok or type(result) == 'table' then return result end
  if string.find(result, '^%u[%u_]+ ') then return {err = result} end
  return {err = 'ERR ' .. result}
end
