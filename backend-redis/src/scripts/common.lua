-- The core's queue machine (`tenure_core::queue`) over the keys of one lock.

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

  local function entry_record(entry)
    return table.concat({entry.mode and 'tenure/2' or 'tenure/1', text(entry.refreshed), text(entry.ttl), entry.client,
      entry.enqueued, text(entry.as_of), entry.owner, entry.mode, entry.token, entry.granted}, ' ')
  end

  local function write_entry(attempt, entry)
    redis.call('HSET', ENTRIES, attempt, entry_record(entry))
  end

  local function send(client, message)
    -- A message that cannot be sent must not undo the change that it reports. Its recipient also
    -- asks in time.
    redis.pcall('PUBLISH', INBOX_PREFIX .. client, message)
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

  local function read_entries(attempts)
    if #attempts == 0 then return {} end
    local raws = checked_call('HMGET', ENTRIES, unpack(attempts))
    local entries = {}
    for index, raw in ipairs(raws) do
      -- If a user deleted a key, a waiter can be without its entry, or the reverse.
      entries[index] = raw and read_entry(ENTRIES, raw) or false
    end
    return entries
  end

  -- The entries at these ranks, nearest to `from` first. Raises an error before anything is
  -- changed.
  local function entries_at(from, to)
    local attempts = checked_call('ZRANGE', QUEUE, from, to)
    return attempts, read_entries(attempts)
  end

  local function delete_entries(attempts)
    if #attempts > 0 then
      redis.call('ZREM', QUEUE, unpack(attempts))
      redis.call('HDEL', ENTRIES, unpack(attempts))
    end
  end

  local joint

  -- The operations on joint holders. They are defined when they are first needed, because defining a
  -- function costs time in each run.
  function self.joint()
    joint = joint or joint_operations(self, HOLDER, LAST_TOKEN, QUEUE, ENTRIES, {
      read_last_token = read_last_token, write_holder = write_holder, write_entry = write_entry,
      entry_record = entry_record, send = send, extend_queue_ttl = extend_queue_ttl, read_entries = read_entries, entries_at = entries_at,
      delete_entries = delete_entries,
    })
    return joint
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
        -- An entry with a token is left of a joint holder whose lock another program has overwritten.
        if entry and not lapsed(entry) and not entry.token then return attempt, entry, lapsed_attempts end
        lapsed_attempts[#lapsed_attempts + 1] = attempt
      end
      if #attempts < CHUNK_SIZE then break end
    end
    return nil, nil, lapsed_attempts
  end

  -- Ends the current grant, if there is one, and grants the lock to the next waiter. `reason` says
  -- how the grant ended; it is stored for the former holder's next request. While `grants_blocked` is
  -- set, nobody is granted the lock, because a holder that the server has forgotten may still hold it.
  -- Returns the joint holders if the next waiter is not exclusive.
  function self.promote_next(holder, reason, grants_blocked)
    local attempt, entry, lapsed_attempts = first_live_waiter()
    if grants_blocked then attempt = nil end
    if attempt and entry.mode then return (self.joint().advance(holder, nil, reason)) end
    local stored = (attempt or reason) and read_last_token()
    if attempt then lapsed_attempts[#lapsed_attempts + 1] = attempt end
    -- Deleting comes first: a full server allows it, and after the first write it allows the
    -- others.
    delete_entries(lapsed_attempts)
    if holder and not attempt then redis.call('DEL', HOLDER) end
    if reason then
      stored.ended = ' ' .. holder.attempt .. ' ' .. reason
      send(holder.client, table.concat({'tenure/1 lost', holder.attempt, reason}, ' '))
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
    send(entry.client, table.concat({'tenure/1 granted', attempt, token, text(entry.ttl), text(as_of)}, ' '))
  end

  -- Ends what has lapsed and returns the holder. While `grants_blocked` is set, it ends nothing.
  function self.expire_lapsed(grants_blocked)
    local holder = read_holder(HOLDER)
    if holder and holder.foreign then return holder end
    if not holder then
      local first = not grants_blocked and checked_call('ZRANGE', QUEUE, 0, 0, 'WITHSCORES') or {}
      if not first[1] then return nil end
      if tonumber(first[2]) < 0 then holder = self.joint().recover_holders() end
    end
    if holder and holder.count then return self.joint().expire_lapsed(holder, grants_blocked) end
    if not holder or lapsed(holder) then
      if grants_blocked then return nil end
      local holders = self.promote_next(holder, holder and 'expired')
      if holders then return self.joint().refresh_future(holders) end
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

  -- How a reply shows the holder: of joint holders, the first.
  function self.display(holder)
    if holder and holder.count then return self.joint().display(holder), -1 end
    return display_holder(HOLDER, holder)
  end

  function self.busy_reply(kind, holder)
    local raw, ms = self.display(holder)
    return {kind, stamp, raw, ms}
  end

  -- The rank of the first waiter.
  local function waiters_rank(holder)
    return holder and holder.count and 2 * holder.count or 0
  end

  -- The time after which to ask again, because the nearest live entry ahead lapses then unless it
  -- is renewed.
  local function recheck_delay(rank, holder)
    local first = waiters_rank(holder)
    local to = rank - 1
    local size = 1
    for chunk = 1, MAX_CHUNKS do
      if to < first then break end
      local from = math.max(to - size + 1, first)
      local attempts, entries = entries_at(from, to)
      local lapsed_attempts = {}
      for index = #attempts, 1, -1 do
        local entry = entries[index]
        if entry and not lapsed(entry) then return time_left(entry) end
        lapsed_attempts[#lapsed_attempts + 1] = attempts[index]
      end
      to, size = from - 1, CHUNK_SIZE
      if to >= first and chunk == MAX_CHUNKS then
        -- There are more lapsed entries than one run may read. The next run, which follows soon,
        -- finds fewer.
        delete_entries(lapsed_attempts)
        return 0
      end
    end
    if not holder then return 0 end
    if holder.foreign then return FOREIGN_RECHECK_US end
    if holder.count then return self.joint().time_left() end
    return time_left(holder)
  end

  local function waiting_reply(rank, entry, holder)
    local within = recheck_delay(rank, holder)
    local raw, ms = self.display(holder)
    local ahead = rank - waiters_rank(holder) + (holder and (holder.count or 1) or 0)
    return {'waiting', text(entry.as_of), stamp, ahead, text(within), raw, ms}
  end

  function self.find_entry(attempt)
    local raw = checked_call('HGET', ENTRIES, attempt)
    return raw and read_entry(ENTRIES, raw)
  end

  function self.append(attempt, entry, holder)
    local last = checked_call('ZRANGE', QUEUE, -1, -1, 'WITHSCORES')
    local score = last[2] and number(last[2]) or (last[2] and malformed(QUEUE)) or 0
    -- Everything is read before the first write, so that unreadable state is an error that leaves
    -- nothing behind.
    local rank = redis.call('ZCARD', QUEUE)
    local answer = waiting_reply(rank, entry, holder)
    redis.call('ZADD', QUEUE, math.max(score, 0) + 1, attempt)
    write_entry(attempt, entry)
    extend_queue_ttl(entry.ttl)
    return answer
  end

  function self.remove_waiter(attempt)
    redis.call('ZREM', QUEUE, attempt, 'g' .. attempt)
    return redis.call('HDEL', ENTRIES, attempt) == 1
  end

  function self.gone_reason(attempt, holder)
    local ended_attempt, reason = string.match(read_last_token().ended, '^ (%x+) (%l+)$')
    if ended_attempt == attempt then return reason end
    if holder and holder.count then return 'expired' end
    return holder and 'displaced' or 'evicted'
  end

  -- A holder's renewal or a waiter's report, after `expire_lapsed`.
  function self.renew_or_report(attempt, holder)
    if holder and holder.attempt == attempt then return self.refresh(holder) end
    local entry = self.find_entry(attempt)
    if not entry then return {'gone', self.gone_reason(attempt, holder)} end
    local is_holder = entry.token and holder and holder.count
    if lapsed(entry) then
      -- A lapsed holder is still there if one run could not end all of them. The next run does.
      if not is_holder then self.remove_waiter(attempt) end
      return {'gone', 'expired'}
    end
    if entry.token and not is_holder then
      -- Another program has overwritten the holder key.
      local reason = self.gone_reason(attempt, holder)
      self.remove_waiter(attempt)
      return {'gone', reason}
    end
    local rank = redis.call('ZRANK', QUEUE, attempt)
    if not rank then
      -- A user deleted its position.
      redis.call('HDEL', ENTRIES, attempt)
      return {'gone', 'evicted'}
    end
    if is_holder then return self.joint().refresh(holder, attempt, entry) end
    extend_queue_ttl(entry.ttl)
    entry.refreshed = now
    entry.as_of = math.max(now, entry.as_of + 1)
    write_entry(attempt, entry)
    return waiting_reply(rank, entry, holder)
  end

  return self
end

