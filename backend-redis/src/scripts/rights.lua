-- Returns the rights that the scripts need and this user lacks. It tries them on keys that nobody
-- uses and deletes those keys at the end. KEYS: a holder key, a queue key, an entries key; ARGV: a
-- channel, and '1' if this client is read-only.
local probes = {
  {'time'}, {'get', KEYS[1]}, {'pttl', KEYS[1]}, {'zrange', KEYS[2], '0', '0'}, {'zcard', KEYS[2]},
  {'hget', KEYS[3], 'x'}, {'hvals', KEYS[3]},
}
local write_probes = {
  {'set', KEYS[1], '', 'PX', '1000'}, {'exists', KEYS[1]}, {'pexpire', KEYS[1], '1000'},
  {'zadd', KEYS[2], '1', 'x'}, {'zrank', KEYS[2], 'x'}, {'zrem', KEYS[2], 'x'},
  {'hset', KEYS[3], 'x', ''}, {'hmget', KEYS[3], 'x'}, {'hdel', KEYS[3], 'x'},
  {'publish', ARGV[1], ''}, {'del', KEYS[1], KEYS[2], KEYS[3]},
}
if ARGV[2] ~= '1' then
  for _, probe in ipairs(write_probes) do probes[#probes + 1] = probe end
end
local missing = {}
for _, probe in ipairs(probes) do
  local reply = redis.pcall(unpack(probe))
  -- Other errors, for instance of a full server, say nothing about rights.
  local message = type(reply) == 'table' and reply.err or ''
  if string.find(message, 'run this command', 1, true) then
    missing[#missing + 1] = '+' .. probe[1]
  elseif string.find(message, 'access at least one of the', 1, true) then
    missing[#missing + 1] = '~' .. probe[2]
  elseif string.find(message, 'to the channel', 1, true) then
    missing[#missing + 1] = '&' .. probe[2]
  end
end
return missing
