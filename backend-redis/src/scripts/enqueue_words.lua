-- What is asked of `enqueue`. What is as usual is left out: each word costs the server.
local HOLDER, FENCE, QUEUE, ENTRIES, FENCED = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local attempt, whose, life, wait, floor = ARGV[1], ARGV[2], ARGV[3], ARGV[4] or '1', ARGV[5] or '0'
