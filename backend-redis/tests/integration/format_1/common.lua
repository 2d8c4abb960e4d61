-- The clock as a number. A double represents it exactly until the year 2255.
local now = tonumber(stamp)
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
-- The core's queue machine (`tenure_core::queue`) over the keys of one lock:
--
--   HOLDER      string      tenure/1 ATTEMPT REFRESHED TOKEN TTL CLIENT OWNER ENQUEUED GRANTED
--   LAST_TOKEN  string      tenure/1 TOKEN [ATTEMPT evicted|expired]
--   QUEUE       sorted set  the waiting attempts by position
--   ENTRIES     hash        ATTEMPT -> tenure/1 REFRESHED TTL CLIENT ENQUEUED AS-OF OWNER
--   FENCE       string      tenure/1 SINCE TTL, one key for each attempt that is fenced off
--
-- All times are in microseconds. A key never expires before its record has lapsed; the record
-- decides.

-- Bounds of the entries that one run reads or deletes. While a script runs, the server serves
-- nobody else.
local CHUNK_SIZE, MAX_CHUNKS = 64, 8

local function text(number)
  return string.format('%.0f', number)
end

-- Ends the script with an error whose first word identifies it to Rust and which names the key.
local function malformed(key, value)
  local version = type(value) == 'string' and string.match(value, '^tenure/(%d+) ')
  if version and tonumber(version) > 1 then
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

local function read_holder(key)
  local raw = checked_call('GET', key)
  if not raw then return nil end
  if string.sub(raw, 1, 7) ~= 'tenure/' then return {raw = raw, foreign = true} end
  -- A valid record never reaches this length. The record is sent with every reply.
  if #raw > 4096 then malformed(key, raw) end
  local attempt, refreshed, token, ttl, client, owner, timestamps =
    string.match(raw, '^tenure/1 (%x+) (%d+) (%d+) (%d+) (%x+) (%S+) (%d+ %d+)$')
  refreshed, ttl = number(refreshed), number(ttl)
  if not (is_token(token) and refreshed and ttl and #attempt == 32 and #client == 32) then
    malformed(key, raw)
  end
  return {
    raw = raw, attempt = attempt, client = client, owner = owner, ttl = ttl, token = token,
    refreshed = refreshed, timestamps = timestamps,
  }
end

local function read_entry(key, raw)
  local refreshed, ttl, client, enqueued, as_of, owner =
    string.match(raw, '^tenure/1 (%d+) (%d+) (%x+) (%d+) (%d+) (%S+)$')
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

-- How a reply shows a holder: its record, or, for a foreign holder, whose value may have any size,
-- only the remaining time.
local function display_holder(key, holder)
  if not holder then return '', -1 end
  if holder.foreign then return 'foreign', redis.call('PTTL', key) end
  return holder.raw, -1
end

-- The operations of the queue machine for the keys of one lock.
local function lock(HOLDER, LAST_TOKEN, QUEUE, ENTRIES)
  local self = {}

  local function read_last_token()
    local raw = checked_call('GET', LAST_TOKEN)
    if not raw then return {last = '0', ended = ''} end
    local last, ended = string.match(raw, '^tenure/1 (%d+)(.*)$')
    if not is_token(last) or (ended ~= '' and not string.find(ended, '^ %x+ %l+$')) then malformed(LAST_TOKEN, raw) end
    return {last = last, ended = ended}
  end

  -- `timestamps`: when the attempt was enqueued and when it was granted.
  local function write_holder(attempt, token, entry, timestamps)
    redis.call('SET', HOLDER,
      table.concat({'tenure/1', attempt, text(entry.refreshed), token, text(entry.ttl), entry.client,
        entry.owner, timestamps}, ' '),
      'PX', math.max(math.ceil(time_left(entry) / 1000), 1))
  end

  local function write_entry(attempt, entry)
    redis.call('HSET', ENTRIES, attempt,
      table.concat({'tenure/1', text(entry.refreshed), text(entry.ttl), entry.client, entry.enqueued,
        text(entry.as_of), entry.owner}, ' '))
  end

  local function publish(client, ...)
    -- A message that cannot be sent must not undo the change that it reports. Its recipient also
    -- asks in time.
    redis.pcall('PUBLISH', INBOX_PREFIX .. client, table.concat({'tenure/1', ...}, ' '))
  end

  -- Keeps the queue's keys for as long as the longest-lived entry may exist. This is also the first
  -- write of a report: a full server allows PEXPIRE, and after the first write it allows the
  -- others.
  local function extend_queue_ttl(ttl)
    local needed = math.ceil(ttl / 1000)
    local current = redis.call('PTTL', ENTRIES)
    if current < needed then current = 2 * needed end
    redis.call('PEXPIRE', QUEUE, current)
    redis.call('PEXPIRE', ENTRIES, current)
  end

  -- The entries at these ranks, nearest to `from` first. Raises an error before anything is
  -- changed.
  local function entries_at(from, to)
    local attempts = checked_call('ZRANGE', QUEUE, from, to)
    if #attempts == 0 then return attempts, {} end
    local raws = checked_call('HMGET', ENTRIES, unpack(attempts))
    local entries = {}
    for index, raw in ipairs(raws) do
      -- If a user deleted a key, a waiter can be without its entry, or the reverse.
      entries[index] = raw and read_entry(ENTRIES, raw) or false
    end
    return attempts, entries
  end

  local function delete_entries(attempts)
    if #attempts > 0 then
      redis.call('ZREM', QUEUE, unpack(attempts))
      redis.call('HDEL', ENTRIES, unpack(attempts))
    end
  end

  -- The first live waiter, and the lapsed ones before it. Changes nothing.
  local function first_live_waiter()
    local lapsed_attempts = {}
    for chunk = 0, MAX_CHUNKS - 1 do
      local attempts, entries = entries_at(chunk * CHUNK_SIZE, chunk * CHUNK_SIZE + (chunk == 0 and 0 or CHUNK_SIZE - 1))
      if chunk == 0 and #attempts == 1 and (not entries[1] or lapsed(entries[1])) then
        attempts, entries = entries_at(0, CHUNK_SIZE - 1)
      end
      for index, attempt in ipairs(attempts) do
        local entry = entries[index]
        if entry and not lapsed(entry) then return attempt, entry, lapsed_attempts end
        lapsed_attempts[#lapsed_attempts + 1] = attempt
      end
      if #attempts < CHUNK_SIZE then break end
    end
    return nil, nil, lapsed_attempts
  end

  -- Ends the current grant, if there is one, and grants the lock to the next waiter. `reason` says
  -- how the grant ended; it is stored for the former holder's next request. While `grants_blocked` is
  -- set, nobody is granted the lock, because a holder that the server has forgotten may still hold it.
  function self.promote_next(holder, reason, grants_blocked)
    local attempt, entry, lapsed_attempts = first_live_waiter()
    if grants_blocked then attempt = nil end
    local stored = (attempt or reason) and read_last_token()
    if attempt then lapsed_attempts[#lapsed_attempts + 1] = attempt end
    -- Deleting comes first: a full server allows it, and after the first write it allows the
    -- others.
    delete_entries(lapsed_attempts)
    if holder and not attempt then redis.call('DEL', HOLDER) end
    if reason then
      stored.ended = ' ' .. holder.attempt .. ' ' .. reason
      publish(holder.client, 'lost', holder.attempt, reason)
    end
    if not attempt then
      if reason then
        write_last_token(LAST_TOKEN, greater_token(stored.last, holder.token), stored.ended)
      end
      return
    end
    local last = holder and greater_token(stored.last, holder.token) or stored.last
    local token = next_token(last)
    -- The grant expires when the waiter's entry would have lapsed, and no later (D4).
    write_holder(attempt, token, entry, entry.enqueued .. ' ' .. stamp)
    write_last_token(LAST_TOKEN, token, stored.ended)
    -- Strictly later than every "waiting" reply to this attempt.
    local as_of = math.max(now, entry.as_of + 1)
    publish(entry.client, 'granted', attempt, token, text(entry.ttl), text(as_of))
  end

  -- Ends what has lapsed and returns the holder. While `grants_blocked` is set, it ends nothing.
  function self.expire_lapsed(grants_blocked)
    local holder = read_holder(HOLDER)
    if holder and holder.foreign then return holder end
    if not holder or lapsed(holder) then
      if grants_blocked then return nil end
      if not holder and redis.call('EXISTS', QUEUE) == 0 then return nil end
      self.promote_next(holder, holder and 'expired')
      holder = read_holder(HOLDER)
    end
    -- The clock was set back. The grant counts from now, so that a dead holder is succeeded in time.
    if holder and holder.refreshed > now then self.refresh(holder) end
    return holder
  end

  function self.grant(attempt, ttl, client, owner)
    local stored = read_last_token()
    local token = next_token(stored.last)
    write_holder(attempt, token, {refreshed = now, ttl = ttl, client = client, owner = owner},
      stamp .. ' ' .. stamp)
    write_last_token(LAST_TOKEN, token, stored.ended)
    return token
  end

  -- Restarts the full TTL of the holder.
  function self.refresh(holder)
    -- A full server allows PEXPIRE, and after the first write it allows SET.
    redis.call('PEXPIRE', HOLDER, math.ceil(holder.ttl / 1000))
    holder.refreshed = now
    write_holder(holder.attempt, holder.token, holder, holder.timestamps)
    return {'granted', holder.token, text(holder.ttl)}
  end

  function self.busy_reply(kind, holder)
    local raw, ms = display_holder(HOLDER, holder)
    return {kind, stamp, raw, ms}
  end

  -- The time after which to ask again, because the nearest live entry ahead lapses then unless it
  -- is renewed.
  local function recheck_delay(rank, holder)
    local to = rank - 1
    local size = 1
    for chunk = 1, MAX_CHUNKS do
      if to < 0 then break end
      local from = math.max(to - size + 1, 0)
      local attempts, entries = entries_at(from, to)
      local lapsed_attempts = {}
      for index = #attempts, 1, -1 do
        local entry = entries[index]
        if entry and not lapsed(entry) then return time_left(entry) end
        lapsed_attempts[#lapsed_attempts + 1] = attempts[index]
      end
      to, size = from - 1, CHUNK_SIZE
      if to >= 0 and chunk == MAX_CHUNKS then
        -- There are more lapsed entries than one run may read. The next run, which follows soon,
        -- finds fewer.
        delete_entries(lapsed_attempts)
        return 0
      end
    end
    if not holder then return 0 end
    if holder.foreign then return FOREIGN_RECHECK_US end
    return time_left(holder)
  end

  local function waiting_reply(rank, entry, holder)
    local within = recheck_delay(rank, holder)
    local raw, ms = display_holder(HOLDER, holder)
    return {'waiting', text(entry.as_of), stamp, rank + (holder and 1 or 0), text(within), raw, ms}
  end

  function self.find_waiter(attempt)
    local raw = checked_call('HGET', ENTRIES, attempt)
    return raw and read_entry(ENTRIES, raw)
  end

  function self.append(attempt, ttl, client, owner, holder)
    local last = checked_call('ZRANGE', QUEUE, -1, -1, 'WITHSCORES')
    local score = last[2] and number(last[2]) or (last[2] and malformed(QUEUE)) or 0
    local entry =
      {refreshed = now, ttl = ttl, client = client, enqueued = stamp, as_of = now, owner = owner}
    -- Everything is read before the first write, so that unreadable state is an error that leaves
    -- nothing behind.
    local rank = redis.call('ZCARD', QUEUE)
    local answer = waiting_reply(rank, entry, holder)
    redis.call('ZADD', QUEUE, score + 1, attempt)
    write_entry(attempt, entry)
    extend_queue_ttl(ttl)
    return answer
  end

  function self.remove_waiter(attempt)
    redis.call('ZREM', QUEUE, attempt)
    return redis.call('HDEL', ENTRIES, attempt) == 1
  end

  local function gone_reason(attempt, holder)
    local ended_attempt, reason = string.match(read_last_token().ended, '^ (%x+) (%l+)$')
    if ended_attempt == attempt then return reason end
    return holder and 'displaced' or 'evicted'
  end

  -- A holder's renewal or a waiter's report, after `expire_lapsed`.
  function self.renew_or_report(attempt, holder)
    if holder and holder.attempt == attempt then return self.refresh(holder) end
    local entry = self.find_waiter(attempt)
    if not entry then return {'gone', gone_reason(attempt, holder)} end
    if lapsed(entry) then
      self.remove_waiter(attempt)
      return {'gone', 'expired'}
    end
    local rank = redis.call('ZRANK', QUEUE, attempt)
    if not rank then
      -- A user deleted its position.
      redis.call('HDEL', ENTRIES, attempt)
      return {'gone', 'evicted'}
    end
    extend_queue_ttl(entry.ttl)
    entry.refreshed = now
    entry.as_of = math.max(now, entry.as_of + 1)
    write_entry(attempt, entry)
    return waiting_reply(rank, entry, holder)
  end

  return self
end

-- Runs a function and returns an error that it raised as the script's error. Servers from 7.0 on
-- convert an error to text before `pcall` returns it.
local function catch_error(run)
  local ok, result = pcall(run)
  if ok or type(result) == 'table' then return result end
  if string.find(result, '^%u[%u_]+ ') then return {err = result} end
  return {err = 'ERR ' .. result}
end
