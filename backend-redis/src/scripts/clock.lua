-- The server's clock, in microseconds since 1970, as a text of 16 digits.
local clock = redis.call('TIME')
local stamp = clock[2]
if #stamp < 6 then stamp = string.sub('00000' .. stamp, -6) end
stamp = clock[1] .. stamp
