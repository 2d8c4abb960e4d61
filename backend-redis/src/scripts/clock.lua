-- The server's clock, in microseconds since 1970. A double holds it exactly until the year 2255.
local clock = redis.call('TIME')
local now = clock[1] * 1000000 + clock[2]
