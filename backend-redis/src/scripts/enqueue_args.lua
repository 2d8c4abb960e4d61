-- The arguments of `enqueue`: one for all items (the token floor, and '1' if the attempts wait), and
-- for each item five KEYS and three ARGV (the attempt; TTL CLIENT OWNER as in a record, and a mode that
-- is not exclusive; the TTL in milliseconds, or nothing for such a mode).
local floor, waits = string.match(ARGV[1], '^(%d+) (%d)$')
local answers, remaining = {}, nil
