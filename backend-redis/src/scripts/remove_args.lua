-- The arguments of `remove`: one for all items, and for each item an attempt in ARGV and four KEYS,
-- or five if the attempts are to be fenced off. Default values are left out, because each argument
-- costs the server time.
local fence_us, floor, grants_blocked, keys_per_item = '0', '0', '0', 4
if ARGV[1] ~= '0' then fence_us, floor, grants_blocked = string.match(ARGV[1], '^(%d+) (%d+) (%d)$') end
if fence_us ~= '0' then keys_per_item = 5 end
local answers, remaining = {}, nil
