-- The server's clock, in microseconds since 1970; as a text too. A double holds it exactly until the
-- year 2255.
local clock = redis.call('TIME')
local stamp = clock[1] .. string.sub('00000' .. clock[2], -6)
local now = tonumber(stamp)
