-- The live entries of these members of a queue that are shown: the holders and the waiters.
local function live_members(ENTRIES, members, holder)
  local holders, waiters = {}, {}
  for _, member in ipairs(members) do
    local granted = string.match(member, '^g(.+)$')
    local raw = checked_call('HGET', ENTRIES, granted or member)
    local entry = raw and read_entry(ENTRIES, raw)
    if entry and not lapsed(entry) then
      if not entry.token then
        waiters[#waiters + 1] = {member, entry.enqueued, entry.owner, entry.mode or 'exclusive'}
      elseif granted and (not holder or holder.count) then
        holders[#holders + 1] = joint_holder_record(granted, entry)
      end
    end
  end
  return holders, waiters
end

