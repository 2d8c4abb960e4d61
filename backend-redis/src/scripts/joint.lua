-- The part of the queue machine that concerns joint holders: those that are not exclusive.

-- The most waiters that one run grants the lock.
local MAX_GRANTS = 1024

-- Returns whether an attempt may hold the lock beside these joint holders; none are there if their
-- count is zero.
local function admits(holders, entry)
  if holders.count == 0 then return true end
  if not entry.mode or holders.of ~= entry.of then return false end
  return not entry.of or holders.taken + entry.take <= entry.of
end

local function add_holder(holders, entry)
  if holders.count == 0 then holders.of, holders.taken = entry.of, 0 end
  holders.count = holders.count + 1
  holders.taken = holders.taken + (entry.take or 0)
  holders.latest = math.max(holders.latest, entry.refreshed)
end

-- `lock` has the operations of every lock, and `base` functions that both use.
local function joint_operations(lock, HOLDER, LAST_TOKEN, QUEUE, ENTRIES, base)
  local joint = {}
  local read_last_token, write_holder, send = base.read_last_token, base.write_holder, base.send
  local read_entries, entries_at, delete_entries = base.read_entries, base.entries_at, base.delete_entries
  local entry_record, write_entry, extend_queue_ttl = base.entry_record, base.write_entry, base.extend_queue_ttl

  -- Writes the record of the joint holders. Without `ttl_ms`, it keeps the key's TTL.
  local function write_joint_holders(holders, ttl_ms)
    local mode = holders.of and text(holders.taken) .. '/' .. text(holders.of) or 'shared'
    local record = table.concat({'tenure/2', mode, text(holders.count), text(holders.latest)}, ' ')
    if ttl_ms then
      redis.call('SET', HOLDER, record, 'PX', math.max(ttl_ms, 1))
    else
      redis.call('SET', HOLDER, record, 'KEEPTTL')
    end
  end

  local function expiry_score(entry)
    return text(entry.refreshed + entry.ttl - EXPIRY_OFFSET)
  end

  -- Sends each client one message that begins with `head` and goes on with the words for each of its
  -- attempts.
  local function send_to_each_client(head, attempts, words)
    local messages, clients = {}, {}
    for _, item in ipairs(attempts) do
      local client = item.entry and item.entry.client
      if client and not messages[client] then
        messages[client] = {head}
        clients[#clients + 1] = client
      end
      if client then table.insert(messages[client], words(item)) end
    end
    for _, client in ipairs(clients) do send(client, table.concat(messages[client], ' ')) end
  end

  -- Goes through the waiters from this rank on. Returns those that may join the holders, and adds
  -- them there; those to delete, because they have lapsed or are `leaving`; and the first one that
  -- stays blocked. Changes nothing in the store.
  local function next_waiters(rank, holders, grants_blocked, leaving)
    local grants, deleted, size = {}, {}, 1
    while #deleted < MAX_ENTRIES and #grants < MAX_GRANTS do
      local attempts, entries = entries_at(rank, rank + size - 1)
      for index, attempt in ipairs(attempts) do
        local entry = entries[index]
        -- An entry with a token is left of a holder whose lock another program has overwritten.
        if not entry or lapsed(entry) or entry.token or attempt == leaving then
          deleted[#deleted + 1] = attempt
        elseif grants_blocked or not admits(holders, entry) then
          return grants, deleted, {attempt = attempt, entry = entry}
        else
          grants[#grants + 1] = {attempt = attempt, entry = entry}
          if not entry.mode then return grants, deleted end
          add_holder(holders, entry)
        end
      end
      if #attempts < size then break end
      rank, size = rank + size, CHUNK_SIZE
    end
    return grants, deleted
  end

  -- The joint holder that was granted the lock first, except those that are leaving.
  local function first_holder(holders, leaving)
    for rank = holders.count, 2 * holders.count - 1 do
      local member = checked_call('ZRANGE', QUEUE, rank, rank)[1]
      local attempt = string.match(member or '', '^g(%x+)$')
      if not attempt then malformed(QUEUE) end
      if not (leaving and leaving[attempt]) then
        return {attempt = attempt, entry = read_entries({attempt})[1]}
      end
    end
  end

  -- The token and the score of the joint holder that was granted the lock last.
  local function last_grant(holders)
    local rank = 2 * holders.count - 1
    local member = checked_call('ZRANGE', QUEUE, rank, rank, 'WITHSCORES')
    local attempt, score = string.match(member[1] or '', '^g(%x+)$'), tonumber(member[2])
    if not (attempt and score and score < 0) then malformed(QUEUE) end
    local entry = read_entries({attempt})[1]
    return entry and entry.token or '0', score
  end

  -- The token of the first of the joint holders.
  local function floor_of(first)
    if not (first.entry and first.entry.token) then malformed(ENTRIES) end
    return first.entry.token
  end

  -- Writes joint grants behind the one with this token and score. `holders` counts them already;
  -- `ttl_ms` is the TTL of the holder key before, or zero.
  local function write_joint_grants(holders, grants, last, score, ended, ttl_ms)
    local positions, records = {}, {}
    for index, grant in ipairs(grants) do
      local attempt, entry = grant.attempt, grant.entry
      last = next_token(last)
      entry.token, entry.granted = last, stamp
      ttl_ms = math.max(ttl_ms, math.ceil(time_left(entry) / 1000))
      local at = 2 * #records
      positions[at + 1], positions[at + 2] = expiry_score(entry), attempt
      positions[at + 3], positions[at + 4] = text(score + index), 'g' .. attempt
      records[#records + 1] = attempt
      records[#records + 1] = entry_record(entry)
      -- A full server refuses the first of these writes of an enqueue before anything is changed.
      if index == #grants then write_last_token(LAST_TOKEN, last, ended) end
      if index == #grants or index % CHUNK_SIZE == 0 then
        redis.call('ZADD', QUEUE, unpack(positions))
        redis.call('HSET', ENTRIES, unpack(records))
        positions, records = {}, {}
      end
    end
    write_joint_holders(holders, ttl_ms)
  end

  local function send_lost(holder, leaving, reason)
    if not leaving then
      send(holder.client, table.concat({'tenure/1 lost', holder.attempt, reason}, ' '))
    else
      send_to_each_client('tenure/2 lost ' .. reason, leaving, function(item) return item.attempt end)
    end
  end

  -- Strictly later than every "waiting" reply to this attempt.
  local function push_time(entry)
    return text(math.max(now, entry.as_of + 1))
  end

  -- If one run granted the lock to as many waiters as it may, the next waiter reports at once, so
  -- that another run goes on.
  local function announce_more(holders, granted, blocked)
    if granted < MAX_GRANTS or blocked then return end
    local rank = 2 * holders.count
    local is_read, attempts, entries = pcall(entries_at, rank, rank)
    if is_read and entries[1] then send(entries[1].client, 'tenure/2 recheck ' .. attempts[1]) end
  end

  -- Ends the grant of an exclusive holder, or of those in `leaving` among joint holders, and grants
  -- the lock to the waiters whose turn it is. `reason` says how the grants ended; it is stored for
  -- the former holder's next request. While `grants_blocked` is set, nobody is granted the lock,
  -- because a holder that the server has forgotten may still hold it. `removed` is a waiter that
  -- leaves. Returns the joint holders, whose count may be zero, and the first waiter that they block.
  function joint.advance(holder, leaving, reason, grants_blocked, removed)
    local holders = holder and holder.count and holder or {count = 0, taken = 0, latest = 0}
    local before, leaving_set = {count = holders.count}, {}
    for _, item in ipairs(leaving or {}) do
      leaving_set[item.attempt] = true
      holders.count = holders.count - 1
      -- Without its entry, it is not known what the holder took. That part stays taken.
      holders.taken = holders.taken - (item.entry and item.entry.take or 0)
    end
    local staying = holders.count
    local grants, deleted, blocked = next_waiters(2 * before.count, holders, grants_blocked, removed)
    local stored = (grants[1] or reason) and read_last_token()
    local last, score, floor = stored and stored.last, FIRST_GRANT_SCORE, nil
    if stored and before.count > 0 then
      local token
      token, score = last_grant(before)
      last = greater_token(last, token)
      if grants[1] and staying > 0 then floor = floor_of(first_holder(before, leaving_set)) end
    elseif stored and holder then
      last = greater_token(last, holder.token)
    end
    local exclusive = grants[1] and not grants[1].entry.mode and grants[1]
    if exclusive then deleted[#deleted + 1] = exclusive.attempt end
    for attempt in pairs(leaving_set) do
      deleted[#deleted + 1] = attempt
      deleted[#deleted + 1] = 'g' .. attempt
    end
    if removed then deleted[#deleted + 1] = removed end
    -- Deleting comes first: a full server allows it, and after the first write it allows the
    -- others.
    delete_entries(deleted)
    if holder and holders.count == 0 and not exclusive then redis.call('DEL', HOLDER) end
    if reason then
      stored.ended = ' ' .. (leaving and leaving[#leaving] or holder).attempt .. ' ' .. reason
      send_lost(holder, leaving, reason)
    end
    if exclusive then
      local attempt, entry, token = exclusive.attempt, exclusive.entry, next_token(last)
      -- The grant expires when the waiter's entry would have lapsed, and no later (D4).
      write_holder(attempt, token, entry, entry.enqueued .. ' ' .. stamp)
      write_last_token(LAST_TOKEN, token, stored.ended)
      send(entry.client, table.concat({'tenure/1 granted', attempt, token, text(entry.ttl), push_time(entry)}, ' '))
    elseif grants[1] then
      extend_queue_ttl(grants[1].entry.ttl)
      local ttl_ms = staying > 0 and redis.call('PTTL', HOLDER) or 0
      write_joint_grants(holders, grants, last, score, stored.ended, ttl_ms)
      floor = floor or grants[1].entry.token
      send_to_each_client('tenure/2 granted ' .. floor, grants, function(item)
        return table.concat({item.attempt, item.entry.token, text(item.entry.ttl), push_time(item.entry)}, ' ')
      end)
      announce_more(holders, #grants, blocked)
    elseif holders.count > 0 and leaving and leaving[1] then
      write_joint_holders(holders)
    end
    if reason and not grants[1] then write_last_token(LAST_TOKEN, last, stored.ended) end
    return holders, blocked
  end

  -- The joint holders whose grants have lapsed, in the order of their grants.
  local function lapsed_holders()
    local attempts = checked_call('ZRANGE', QUEUE, '-inf', text(now - EXPIRY_OFFSET), 'BYSCORE', 'LIMIT', 0, MAX_ENTRIES)
    local leaving = {}
    for index, entry in ipairs(read_entries(attempts)) do
      leaving[index] = {attempt = attempts[index], entry = entry}
    end
    table.sort(leaving, function(one, other)
      one, other = one.entry and one.entry.token or '', other.entry and other.entry.token or ''
      if #one ~= #other then return #one < #other end
      return one < other
    end)
    return leaving
  end

  -- The clock was set back. Grants count from now, so that dead holders are succeeded in time. Those
  -- that would last longest come first.
  function joint.refresh_future(holders)
    if holders.latest <= now then return holders end
    local from, future = math.max(holders.count - MAX_ENTRIES, 0), {}
    local attempts, entries = entries_at(from, holders.count - 1)
    for index, entry in ipairs(entries) do
      if entry and entry.refreshed > now then future[#future + 1] = {attempt = attempts[index], entry = entry} end
    end
    if from == 0 or #future == 0 then holders.latest = now end
    for index, item in ipairs(future) do
      item.entry.refreshed = now
      -- A full server allows PEXPIRE, and after the first write it allows the others.
      if index == 1 then extend_queue_ttl(item.entry.ttl) end
      write_entry(item.attempt, item.entry)
      redis.call('ZADD', QUEUE, expiry_score(item.entry), item.attempt)
    end
    local ttl_ms = redis.call('PTTL', HOLDER)
    redis.call('PEXPIRE', HOLDER, ttl_ms)
    write_joint_holders(holders, ttl_ms)
    return holders
  end

  -- The joint holders of a lock whose holder key a user has deleted. They may still hold the lock.
  function joint.recover_holders()
    local member = checked_call('ZRANGE', QUEUE, text(FIRST_GRANT_SCORE), '(0', 'BYSCORE', 'LIMIT', 0, 1)[1]
    local count = member and redis.call('ZRANK', QUEUE, member)
    if not count or count == 0 then malformed(QUEUE) end
    local expiry = tonumber(checked_call('ZRANGE', QUEUE, count - 1, count - 1, 'WITHSCORES')[2]) + EXPIRY_OFFSET
    local holders = {count = count, taken = 0, latest = expiry}
    local first = first_holder(holders)
    if not (first.entry and first.entry.mode == 'shared') then
      -- It is not known how many permits are taken, so that nobody may join.
      holders.of = first.entry and first.entry.of or 1
      holders.taken = holders.of
    end
    extend_queue_ttl(math.max(expiry - now, 1000000))
    write_joint_holders(holders, math.ceil((expiry - now) / 1000))
    return holders
  end

  function joint.expire_lapsed(holders, grants_blocked)
    -- The queue key may have been deleted.
    holders.first = first_holder(holders)
    if grants_blocked then return holders end
    local leaving = lapsed_holders()
    local blocked
    holders, blocked = joint.advance(holders, leaving, leaving[1] and 'expired')
    if leaving[1] then holders.first = nil end
    if holders.count == 0 then
      -- An exclusive waiter may have succeeded them, or nobody.
      local holder = read_holder(HOLDER)
      if holder and holder.refreshed > now then lock.refresh(holder) end
      return holder
    end
    joint.refresh_future(holders)
    if blocked and blocked.entry.refreshed > now then
      blocked.entry.refreshed = now
      extend_queue_ttl(blocked.entry.ttl)
      write_entry(blocked.attempt, blocked.entry)
    end
    return holders
  end

  -- Grants the lock to a new attempt beside joint holders, or without any. Returns nothing if it has
  -- to wait.
  function joint.join(holders, attempt, entry)
    local count = holders and holders.count or 0
    if count > 0 and (redis.call('ZCARD', QUEUE) > 2 * count or not admits(holders, entry)) then return nil end
    local stored = read_last_token()
    local last, score, floor, ttl_ms = stored.last, FIRST_GRANT_SCORE, nil, 0
    if count > 0 then
      local token
      token, score = last_grant(holders)
      last, floor = greater_token(last, token), floor_of(holders.first or first_holder(holders))
      ttl_ms = redis.call('PTTL', HOLDER)
    end
    holders = holders or {count = 0, taken = 0, latest = 0}
    add_holder(holders, entry)
    write_joint_grants(holders, {{attempt = attempt, entry = entry}}, last, score, stored.ended, ttl_ms)
    extend_queue_ttl(entry.ttl)
    return {'granted', entry.token, text(entry.ttl), floor or entry.token}
  end

  function joint.refresh(holders, attempt, entry)
    local floor = floor_of(holders.first or first_holder(holders))
    extend_queue_ttl(entry.ttl)
    entry.refreshed = now
    holders.latest = math.max(holders.latest, now)
    write_joint_holders(holders, math.max(redis.call('PTTL', HOLDER), math.ceil(entry.ttl / 1000)))
    write_entry(attempt, entry)
    redis.call('ZADD', QUEUE, expiry_score(entry), attempt)
    return {'granted', entry.token, text(entry.ttl), floor}
  end

  -- Removes an attempt of a lock with joint holders. Returns how it was there.
  function joint.remove(holders, attempt, grants_blocked)
    local entry = lock.find_entry(attempt)
    if entry and entry.token then
      joint.advance(holders, {{attempt = attempt, entry = entry}}, nil, grants_blocked)
      return 'holder'
    end
    joint.advance(holders, {}, nil, grants_blocked, attempt)
    return entry and 'waiter' or 'absent'
  end

  -- The joint holder whose grant has this token. Tokens rise in the order of the grants.
  function joint.find_grant(holders, token)
    local low, high = holders.count, 2 * holders.count - 1
    while low <= high do
      local middle = math.floor((low + high) / 2)
      local attempt = string.match(checked_call('ZRANGE', QUEUE, middle, middle)[1] or '', '^g(%x+)$')
      if not attempt then malformed(QUEUE) end
      local entry = lock.find_entry(attempt)
      if not (entry and entry.token) then malformed(ENTRIES) end
      if entry.token == token then return {attempt = attempt, entry = entry} end
      if greater_token(entry.token, token) == token then low = middle + 1 else high = middle - 1 end
    end
  end

  -- Turns an exclusive grant into a shared one, and grants the lock to the shared waiters behind it.
  -- Returns nothing if the grant is shared then, otherwise why it is gone.
  function joint.downgrade(holder, attempt, token, grants_blocked)
    if not holder or holder.attempt ~= attempt then
      local entry = lock.find_entry(attempt)
      if not entry then return lock.gone_reason(attempt, holder) end
      if not (holder and holder.count and entry.token == token) then return 'displaced' end
      return lapsed(entry) and 'expired' or nil
    end
    if holder.token ~= token then return 'displaced' end
    -- Unreadable entries are an error before the first write.
    next_waiters(0, {count = 1, taken = 0, latest = 0}, grants_blocked)
    local enqueued, granted = string.match(holder.timestamps, '^(%d+) (%d+)$')
    local entry = {
      refreshed = holder.refreshed, ttl = holder.ttl, client = holder.client, enqueued = enqueued, as_of = now,
      owner = holder.owner, mode = 'shared', token = token, granted = granted,
    }
    local holders = {count = 0, taken = 0, latest = 0}
    add_holder(holders, entry)
    -- A full server allows PEXPIRE, and after the first write it allows the others.
    extend_queue_ttl(entry.ttl)
    redis.call('ZADD', QUEUE, expiry_score(entry), attempt, text(FIRST_GRANT_SCORE + 1), 'g' .. attempt)
    write_entry(attempt, entry)
    extend_queue_ttl(entry.ttl)
    write_joint_holders(holders, math.ceil(time_left(entry) / 1000))
    joint.advance(holders, {}, nil, grants_blocked)
  end

  -- How a reply shows the first of the holders; nothing if a user deleted its entry.
  function joint.display(holders)
    local first = holders.first or first_holder(holders)
    return first.entry and first.entry.token and joint_holder_record(first.attempt, first.entry) or ''
  end

  -- The time until the first of the holders expires.
  function joint.time_left()
    local expiry = tonumber(checked_call('ZRANGE', QUEUE, 0, 0, 'WITHSCORES')[2])
    return math.max((expiry or malformed(QUEUE)) + EXPIRY_OFFSET - now, 0)
  end

  return joint
end

