-- The server's clock: microseconds since 1970, as 16 digits of text.
local clock = redis.call('TIME')
local stamp = clock[2]
if #stamp < 6 then stamp = string.sub('00000' .. stamp, -6) end
stamp = clock[1] .. stamp
