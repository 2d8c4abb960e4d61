-- A holder that leaves, with nobody behind it: the common case, in few calls and without a function.
-- No clock is read: a grant that has lapsed, and that no script has ended since, nobody else was given.
if fence == '0' and redis.call('EXISTS', QUEUE) == 0 then
  local held = redis.pcall('GET', HOLDER)
  if type(held) == 'string' and string.find(held, 'tenure/1 ' .. attempt .. ' ', 1, true) == 1 then
    redis.call('DEL', HOLDER)
    return 'holder'
  end
end
