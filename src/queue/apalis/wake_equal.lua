-- Wakes the next of the jobs that wait for an equal one, because that one has failed.
-- KEYS 1 active  2 scheduled
-- ARGV 1 prefix of the equal jobs' keys
-- Returns nothing. Sent again, it wakes one more, which waits again where it is not needed.
wake_waiting(ARGV[1], 1, KEYS[1], KEYS[2])
