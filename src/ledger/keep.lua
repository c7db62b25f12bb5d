-- Keeps the answer of a paid call. Whoever brings it: it is the answer to the same question.
-- KEYS 1 the job's page
-- ARGV 1 entry  2 the answer  3 time to live, ms
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
redis.call('PEXPIRE', KEYS[1], ARGV[3])
