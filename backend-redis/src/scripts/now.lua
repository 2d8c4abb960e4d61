-- The clock as a number. A double represents it exactly until the year 2255.
local now = tonumber(stamp)
