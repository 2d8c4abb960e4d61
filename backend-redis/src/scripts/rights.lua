-- Which of the rights that the scripts need this user lacks, tried on keys that nobody uses and that
-- are gone again by the end. KEYS: a holder's, a queue's, an entries' key; ARGV: a channel, and '1' if
-- this client only looks.
local tries = {
  {'time'}, {'get', KEYS[1]}, {'pttl', KEYS[1]}, {'zrange', KEYS[2], '0', '0'}, {'zcard', KEYS[2]},
  {'hget', KEYS[3], 'x'}, {'hvals', KEYS[3]},
}
local changes = {
  {'set', KEYS[1], '', 'PX', '1000'}, {'exists', KEYS[1]}, {'pexpire', KEYS[1], '1000'},
  {'zadd', KEYS[2], '1', 'x'}, {'zrank', KEYS[2], 'x'}, {'zrem', KEYS[2], 'x'},
  {'hset', KEYS[3], 'x', ''}, {'hmget', KEYS[3], 'x'}, {'hdel', KEYS[3], 'x'},
  {'publish', ARGV[1], ''}, {'del', KEYS[1], KEYS[2], KEYS[3]},
}
if ARGV[2] ~= '1' then
  for _, change in ipairs(changes) do tries[#tries + 1] = change end
end
local lacking = {}
for _, try in ipairs(tries) do
  local reply = redis.pcall(unpack(try))
  -- Other errors (a full server, say) are no matter of rights.
  local said = type(reply) == 'table' and reply.err or ''
  if string.find(said, 'run this command', 1, true) then
    lacking[#lacking + 1] = '+' .. try[1]
  elseif string.find(said, 'access at least one of the', 1, true) then
    lacking[#lacking + 1] = '~' .. try[2]
  elseif string.find(said, 'to the channel', 1, true) then
    lacking[#lacking + 1] = '&' .. try[2]
  end
end
return lacking
