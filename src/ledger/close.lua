-- Takes back the mark of a call that the provider refused, unless another call has overwritten the mark since.
-- KEYS 1 the job's page
-- ARGV 1 entry  2 mark
if redis.call('HGET', KEYS[1], ARGV[1]) == ARGV[2] then
  redis.call('HDEL', KEYS[1], ARGV[1])
  -- Deletes a page that holds nothing but the token of its delivery (`by`).
  if redis.call('HLEN', KEYS[1]) == 1 and redis.call('HEXISTS', KEYS[1], 'by') == 1 then redis.call('DEL', KEYS[1]) end
end
