-- What is asked of `enqueue`: a word for all items, and for each of them five KEYS and three of ARGV
-- (the attempt; TTL CLIENT OWNER, as a record has them; the TTL in milliseconds). What is as usual is
-- left out, since each word costs the server.
local floor, no_wait = ARGV[1], ''
if floor ~= '0' then floor, no_wait = string.match(floor, '^(%d+)(.*)$') end
local answers, remaining = {}, nil
