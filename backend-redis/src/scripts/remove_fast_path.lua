-- Removes holders that no waiter follows. This is the common case; it takes few commands and
-- defines no function. It needs no clock: if the grant has lapsed and no script has ended it since,
-- nobody else was granted the lock.
for item = 1, #ARGV - 1 do
  local key_index = 5 * (item - 1)
  if fence_us == '0' and redis.call('EXISTS', KEYS[key_index + 3]) == 0 then
    local record = redis.pcall('GET', KEYS[key_index + 1])
    if type(record) == 'string' and string.find(record, 'tenure/1 ' .. ARGV[item + 1] .. ' ', 1, true) == 1 then
      redis.call('DEL', KEYS[key_index + 1])
      answers[item] = 'holder'
    end
  end
  if not answers[item] then
    remaining = remaining or {}
    remaining[#remaining + 1] = item
  end
end
if not remaining then return answers end
