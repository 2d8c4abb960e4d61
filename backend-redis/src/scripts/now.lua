-- The same as a number. A double holds it exactly until the year 2255.
local now = tonumber(stamp)
