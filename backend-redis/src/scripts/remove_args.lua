-- The arguments of `remove`: one for all items (for how long the attempts are fenced off, the token
-- floor, and '1' while grants are blocked), and for each item an attempt in ARGV and five KEYS.
local fence_us, floor, grants_blocked = string.match(ARGV[1], '^(%d+) (%d+) (%d)$')
local answers, remaining = {}, nil
