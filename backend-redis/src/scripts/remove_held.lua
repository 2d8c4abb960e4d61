-- Holders that leave, with nobody behind them: the common case, in few calls and without a function.
-- No clock is read: a grant that has lapsed, and that no script has ended since, nobody else was given.
for item = 1, #ARGV - 1 do
  local key = count * (item - 1)
  if fence == '0' and redis.call('EXISTS', KEYS[key + 3]) == 0 then
    local held = redis.pcall('GET', KEYS[key + 1])
    if type(held) == 'string' and string.find(held, 'tenure/1 ' .. ARGV[item + 1] .. ' ', 1, true) == 1 then
      redis.call('DEL', KEYS[key + 1])
      answers[item] = 'holder'
    end
  end
  if not answers[item] then
    rest = rest or {}
    rest[#rest + 1] = item
  end
end
if not rest then return answers end
