-- Takes back the mark of a call that was answered with a refusal, unless somebody else has written there since.
-- KEYS 1 the job's page
-- ARGV 1 entry  2 mark
if redis.call('HGET', KEYS[1], ARGV[1]) == ARGV[2] then
  redis.call('HDEL', KEYS[1], ARGV[1])
  -- Who opened it is not worth a page.
  if redis.call('HLEN', KEYS[1]) == 1 and redis.call('HEXISTS', KEYS[1], 'by') == 1 then redis.call('DEL', KEYS[1]) end
end
