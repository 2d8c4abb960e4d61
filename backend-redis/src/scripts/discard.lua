-- Deletes what is left of a lock that is free, except its fences. Returns whether it is free.
-- KEYS: the holder, the last token, the queue, the entries.
if redis.call('EXISTS', KEYS[1], KEYS[3]) > 0 then return 0 end
redis.call('DEL', KEYS[2], KEYS[4])
return 1
