-- Scores of joint holders in the queue: the expiry less the offset, and the first in the order of
-- grants. A double represents them exactly, and until the year 2223 every expiry score is below every grant score.
local EXPIRY_OFFSET, FIRST_GRANT_SCORE = 9000000000000000, -1000000000000000
