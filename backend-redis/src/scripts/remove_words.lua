-- What is asked of `remove`. What is as usual is left out: each word costs the server. The last of the
-- keys is there if the attempt is to be fenced off.
local HOLDER, FENCE, QUEUE, ENTRIES, FENCED = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local attempt, fence, floor, closed = ARGV[1], ARGV[2] or '0', ARGV[3] or '0', ARGV[4] or '0'
