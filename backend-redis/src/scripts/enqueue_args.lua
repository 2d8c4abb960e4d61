-- The arguments of `enqueue`: one for all items, and for each item five KEYS and three ARGV (the
-- attempt; TTL CLIENT OWNER as in a record; the TTL in milliseconds). Default values are left out,
-- because each argument costs the server time.
local floor, no_wait = ARGV[1], ''
if floor ~= '0' then floor, no_wait = string.match(floor, '^(%d+)(.*)$') end
local answers, remaining = {}, nil
