-- What is asked of `remove`: a word for all items, and for each of them an attempt in ARGV, and four
-- KEYS, or five if the attempts are to be fenced off. What is as usual is left out, since each word
-- costs the server.
local fence, floor, closed, count = '0', '0', '0', 4
if ARGV[1] ~= '0' then fence, floor, closed = string.match(ARGV[1], '^(%d+) (%d+) (%d)$') end
if fence ~= '0' then count = 5 end
local answers, rest = {}, nil
